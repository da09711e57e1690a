"""Runs one peer system on a workload, in whichever Python environment holds it, and prints JSON.

    python benchmarks/peers.py SYSTEM MODEL --threads 2 --prompt 128 --new 64 --concurrency 1,8

It imports nothing of ours, so that another environment's interpreter can run it as it is.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from typing import Any

Run = Callable[[list[list[int]], int], int]


def main() -> None:
    """Measure one system; one JSON line with seconds and tokens per concurrency."""
    options = _parser().parse_args()
    run = SYSTEMS[options.system](options)
    results = {}
    for concurrency in map(int, options.concurrency.split(",")):
        prompts = make_prompts(concurrency, options.prompt, options.vocab)
        run(prompts[:1], 4)
        seconds = []
        for _ in range(options.rounds):
            began = time.perf_counter()
            tokens = run(prompts, options.new)
            seconds.append(time.perf_counter() - began)
        results[concurrency] = {"seconds": min(seconds), "tokens": tokens}
    sys.stdout.write(json.dumps(results) + "\n")


def make_prompts(count: int, length: int, vocab: int) -> list[list[int]]:
    """The same random prompts for every system."""
    rng = random.Random(1234)
    return [[rng.randrange(3, vocab) for _ in range(length)] for _ in range(count)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("system", choices=sorted(SYSTEMS))
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=128, help="tokens of each prompt")
    parser.add_argument("--new", type=int, default=64, help="tokens generated for each")
    parser.add_argument("--vocab", type=int, default=32000)
    parser.add_argument("--concurrency", default="1,8,16,32")
    parser.add_argument("--rounds", type=int, default=2, help="the fastest of so many counts")
    return parser


def _transformers(options: argparse.Namespace) -> Run:
    model = _transformers_model(options)
    import torch

    def run(prompts: list[list[int]], new: int) -> int:
        ids = torch.tensor(prompts)
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                min_new_tokens=new,
                max_new_tokens=new,
                do_sample=False,
                pad_token_id=1,
            )
        return int((out.shape[1] - ids.shape[1]) * len(prompts))

    return run


def _continuous(options: argparse.Namespace) -> Run:
    model = _transformers_model(options)
    from transformers import GenerationConfig

    def run(prompts: list[list[int]], new: int) -> int:
        config = GenerationConfig(
            max_new_tokens=new, do_sample=False, eos_token_id=-1, pad_token_id=1, num_blocks=1024
        )
        answers = model.generate_batch(inputs=prompts, generation_config=config)
        return sum(len(answer.generated_tokens) for answer in answers.values())

    return run


def _transformers_model(options: argparse.Namespace) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(options.threads)
    return AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()


def _vllm(options: argparse.Namespace, stages: int = 1) -> Run:
    from vllm import LLM, SamplingParams

    engine = LLM(
        options.model,
        dtype="float32",
        pipeline_parallel_size=stages,
        max_model_len=1024,
        distributed_executor_backend="mp" if stages > 1 else None,
    )

    def run(prompts: list[list[int]], new: int) -> int:
        sampling = SamplingParams(max_tokens=new, temperature=0, ignore_eos=True)
        inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
        outputs = engine.generate(inputs, sampling, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    return run


def _vllm_pipeline(options: argparse.Namespace) -> Run:
    return _vllm(options, stages=2)


def _llama_cpp(options: argparse.Namespace) -> Run:
    """One sequence after another: the Python binding's high-level interface has no batch."""
    from llama_cpp import Llama

    engine = Llama(options.model, n_threads=options.threads, n_ctx=1024, verbose=False)

    def run(prompts: list[list[int]], new: int) -> int:
        count = 0
        for prompt in prompts:
            engine.reset()
            for _, _ in zip(range(new), engine.generate(prompt, temp=0.0), strict=False):
                count += 1
        return count

    return run


SYSTEMS: dict[str, Callable[[argparse.Namespace], Run]] = {
    "transformers": _transformers,
    "continuous": _continuous,
    "vllm": _vllm,
    "vllm-pp2": _vllm_pipeline,
    "llama.cpp": _llama_cpp,
}

if __name__ == "__main__":
    main()
