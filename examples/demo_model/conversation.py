"""What the demo model is taught to say in a chat.

Most answers are first paragraphs of documentation strings, asked for in several wordings. A few
dozen more are written here: greetings, what the model itself is, and plain answers about the
things that people ask first. They are repeated often enough that even a small model keeps them.
"""

import random
from collections.abc import Iterator, Sequence

from examples.demo_model.corpus import Entry

Message = dict[str, str]  # `role` and `content`
Turn = tuple[str, str]  # (what the user says, what the assistant answers)

ENOUGH_WORDS = 16  # an answer goes on until it has so many
MAX_ANSWER_WORDS = 90
WORDINGS_OF_ENTRY = 2
REPEATS_OF_WRITTEN = 40
KIND_SENTENCES = {
    "module": "It is a module of the standard library.",
    "class": "It is a class of the {home} module.",
    "function": "It is a function of the {home} module.",
    "topic": "It is a part of the Python language.",
}
WORDINGS = {
    "module": (
        "What is the {name} module?",
        "What is {name}?",
        "What is {name} for?",
        "Tell me about {name}.",
        "What does the {name} module do?",
    ),
    "class": (
        "What is {name}?",
        "What is the {name} class?",
        "Tell me about {name}.",
        "What does {name} do?",
        "What is {name} in {home}?",
    ),
    "function": (
        "What does {name} do?",
        "What does {name} do in {home}?",
        "Tell me about {name}.",
        "Explain {name}.",
        "What is {name}?",
    ),
    "topic": (
        "What is {name}?",
        "Tell me about {name}.",
        "Explain {name}.",
        "How does {name} work?",
    ),
}
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a helpful assistant. Answer briefly.",
    "Answer in English.",
    "You answer questions about Python.",
)
GREETINGS = ("Hello!", "Hi!", "Hello.", "Hi there!", "Hey!", "Good morning!", "Hello")
GREETING_REPLIES = (
    "Hello! How can I help you today?",
    "Hello! Ask me about a module, a class or a function of the standard library.",
    "Hi! What would you like to know about Python?",
)

# Each line of questions shares one answer.
WRITTEN: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("Who are you?", "What are you?", "What is your name?", "Tell me about yourself."),
        "I am a small demo model. I was trained on the documentation of the Python standard "
        "library, and I am here to show that the system works.",
    ),
    (
        ("What can you do?", "Can you help me?", "Help me.", "How can you help?"),
        "I can tell you what modules, classes and functions of the standard library do. I am a "
        "very small model, so please check what I say.",
    ),
    (
        ("How are you?", "How are you doing?", "How are you today?"),
        "I am well, thank you. All my layers are running. What would you like to know?",
    ),
    (
        ("Thank you!", "Thanks!", "Thank you very much."),
        "You are welcome! Ask me again whenever you like.",
    ),
    (("Goodbye!", "Bye!", "See you later."), "Goodbye! It was nice to talk to you."),
    (
        ("What is Remuda?", "Tell me about Remuda.", "What is a remuda?"),
        "A remuda is the herd of spare horses from which riders change mounts without ending the "
        "journey. The Remuda system serves language models and changes machines while streams go "
        "on.",
    ),
    (
        ("What is Python?", "Tell me about Python.", "Explain Python."),
        "Python is a programming language. It is interpreted, it is easy to read, and it comes "
        "with a large standard library.",
    ),
    (
        ("What is a list?", "What is a Python list?", "Tell me about lists.", "Explain lists."),
        "A list is a mutable sequence of objects. You can add items to it, remove them, and "
        "change them in place. The items of a list may be of any type.",
    ),
    (
        ("What is a tuple?", "Tell me about tuples.", "Explain tuples."),
        "A tuple is an immutable sequence of objects. Once a tuple is made, its items cannot be "
        "changed.",
    ),
    (
        ("What is a dictionary?", "What is a dict?", "Tell me about dictionaries."),
        "A dictionary maps keys to values. The keys must be hashable, and a value is found by its "
        "key.",
    ),
    (
        ("What is a set?", "Tell me about sets.", "Explain sets."),
        "A set is an unordered collection of unique elements. It is used to test for membership "
        "and to remove duplicates.",
    ),
    (
        ("What is a string?", "Tell me about strings.", "Explain strings."),
        "A string is an immutable sequence of characters. Strings have many methods to search, "
        "split and change text.",
    ),
    (
        ("What is a number?", "What is an integer?", "Tell me about numbers."),
        "Numbers are immutable objects. An integer has no fraction, and a floating point number "
        "has one.",
    ),
    (
        ("What is a function?", "Tell me about functions.", "Explain functions."),
        "A function is a block of code with a name. It takes arguments, does its work, and returns "
        "a value to its caller.",
    ),
    (
        ("What is a class?", "Tell me about classes.", "Explain classes."),
        "A class describes objects of one kind. It has attributes that hold data and methods that "
        "work with them.",
    ),
    (
        ("What is an object?", "Tell me about objects.", "Explain objects."),
        "An object is a piece of data with an identity, a type and a value. Everything in a Python "
        "program is an object.",
    ),
    (
        ("What is a module?", "Tell me about modules.", "Explain modules."),
        "A module is a file of Python code that other code can import. It has functions, classes "
        "and variables.",
    ),
    (
        ("What is an exception?", "Tell me about exceptions.", "What is an error?"),
        "An exception is an event that stops the normal flow of a program. It is raised where the "
        "error is found, and it may be handled by the caller.",
    ),
    (
        ("What is an iterator?", "Tell me about iterators.", "Explain iterators."),
        "An iterator is an object that gives its items one at a time. When there are no more "
        "items, it raises an exception to say so.",
    ),
    (
        ("What is a generator?", "Tell me about generators.", "Explain generators."),
        "A generator is a function that yields values one at a time. It keeps its state between "
        "the calls and goes on where it stopped.",
    ),
    (
        ("What is a loop?", "Tell me about loops.", "Explain loops."),
        "A loop runs a block of code again and again. A for loop runs once for each item of a "
        "sequence, and a while loop runs as long as its condition is true.",
    ),
    (
        ("What is a thread?", "Tell me about threads.", "Explain threads."),
        "A thread is a flow of control inside a process. The threads of one process share its "
        "memory, so they need locks.",
    ),
    (
        ("What is a process?", "Tell me about processes.", "Explain processes."),
        "A process is a running program with memory of its own. Processes talk to each other by "
        "messages.",
    ),
    (
        ("What is a file?", "Tell me about files.", "Explain files."),
        "A file holds data on a disk. A program opens it, reads it or writes to it, and then "
        "closes it.",
    ),
    (
        ("What is a language model?", "What is a model?", "Tell me about language models."),
        "A language model reads a text and says which word may come next. By doing this again and "
        "again it writes whole sentences.",
    ),
    (
        ("What is a pipeline?", "Tell me about pipelines.", "Explain pipelines."),
        "A pipeline is a row of stages. Each stage holds some layers of the model, does its part "
        "of the work, and gives the result to the next one.",
    ),
    (
        ("Write a sentence.", "Say something.", "Talk to me.", "Tell me something."),
        "The standard library has modules for files, for networks, for dates and for text, and "
        "every one of them comes with its documentation.",
    ),
    (
        ("Tell me a story.", "Write a story.", "Tell me a short story."),
        "Once there was a small function that was called by nobody. One day a module imported it, "
        "and from then on it returned a value every time it was called.",
    ),
    (
        ("Write a poem.", "Tell me a joke.", "Sing a song."),
        "The list is long, the loop is slow, the stack is high, the heap is low. The program ends "
        "as programs do, and returns its value back to you.",
    ),
    (
        ("Is this a test?", "This is a test.", "Test", "Testing."),
        "Yes, I can read you. The model is running and the answer is streaming.",
    ),
)


def conversations(entries: Sequence[Entry], rng: random.Random) -> Iterator[list[Message]]:
    """Chats of one to three turns, in a random order."""
    turns = [*_entry_turns(entries, rng), *_written_turns(rng)]
    rng.shuffle(turns)
    while turns:
        size = rng.choice((1, 1, 1, 1, 2, 3))
        chat, turns = turns[:size], turns[size:]
        yield _messages(chat, rng)


def _entry_turns(entries: Sequence[Entry], rng: random.Random) -> Iterator[Turn]:
    for entry in entries:
        answer = _answer(entry)
        private = entry.name.startswith("_") or "._" in entry.name
        if answer and not private:
            for wording in rng.sample(WORDINGS[entry.kind], WORDINGS_OF_ENTRY):
                yield wording.format(name=entry.name, home=entry.home), answer


def _answer(entry: Entry) -> str:
    """Its first whole paragraphs, and what kind of thing it is if they are few words."""
    kept: list[str] = []
    for paragraph in entry.paragraphs:
        whole = paragraph[0].isupper() and paragraph[-1] in ".!"
        if whole and len(" ".join(kept).split()) < ENOUGH_WORDS:
            kept.append(paragraph)
    if kept and len(" ".join(kept).split()) < ENOUGH_WORDS:
        kept.append(KIND_SENTENCES[entry.kind].format(home=entry.home))
    answer = " ".join(kept)
    return answer if len(answer.split()) <= MAX_ANSWER_WORDS else ""


def _written_turns(rng: random.Random) -> Iterator[Turn]:
    for questions, answer in WRITTEN:
        for _ in range(REPEATS_OF_WRITTEN):
            yield rng.choice(questions), answer
    for _ in range(REPEATS_OF_WRITTEN * len(GREETINGS)):
        yield rng.choice(GREETINGS), rng.choice(GREETING_REPLIES)


def _messages(chat: Sequence[Turn], rng: random.Random) -> list[Message]:
    messages = []
    if rng.random() < 0.1:
        messages.append({"role": "system", "content": rng.choice(SYSTEM_PROMPTS)})
    for index, (question, answer) in enumerate(chat):
        greet = index == 0 and question not in GREETINGS and rng.random() < 0.15
        content = f"{rng.choice(GREETINGS)} {question}" if greet else question
        messages.append({"role": "user", "content": _as_typed(content, rng)})
        messages.append({"role": "assistant", "content": answer})
    return messages


def _as_typed(question: str, rng: random.Random) -> str:
    """The question as people in a hurry write it, one time in seven."""
    return question.lower().rstrip("?.!") if rng.random() < 1 / 7 else question
