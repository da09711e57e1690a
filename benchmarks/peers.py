"""Holds one peer system in whichever Python environment has it, and runs workloads as told.

    python benchmarks/peers.py SYSTEM MODEL --threads 2

It imports nothing of ours but the prompts beside it, so that another environment's interpreter can
run it as it is. It says `{"ready": true}` once the model is loaded; then every line of standard
input, `{"count": 8, "length": 128, "new": 64, "seed": 0}`, is answered by
`{"seconds": ..., "tokens": ...}`. Whatever else a system prints goes to standard error.
"""

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

# Another environment's interpreter runs this as a file, so it must find the rest by itself.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.prompts import make_prompts

Run = Callable[[list[list[int]], int], int]
"""Continues all prompts by so many tokens each; returns the number generated."""


def main() -> None:
    """Load one system, then run one workload a line."""
    answers = _claim_stdout()
    options = _parser().parse_args()
    run = SYSTEMS[options.system](options)
    _say(answers, {"ready": True})
    for line in sys.stdin:
        work = json.loads(line)
        prompts = make_prompts(work["count"], work["length"], options.vocab, work["seed"])
        began = time.perf_counter()
        tokens = run(prompts, work["new"])
        _say(answers, {"seconds": time.perf_counter() - began, "tokens": tokens})


def _claim_stdout() -> TextIO:
    """Standard output for our answers alone; what libraries print there goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _say(answers: TextIO, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("system", choices=sorted(SYSTEMS))
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--vocab", type=int, default=32000)
    parser.add_argument("--device", default="cpu", help="cpu or cuda, for transformers")
    parser.add_argument("--dtype", default="float32")
    return parser


def _transformers(options: argparse.Namespace) -> Run:
    """`generate` over all prompts as one static batch."""
    model = _transformers_model(options)
    import torch

    def run(prompts: list[list[int]], new: int) -> int:
        ids = torch.tensor(prompts, device=options.device)
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
    """Transformers' own continuous batching."""
    model = _transformers_model(options)
    generation_config: Any = importlib.import_module("transformers").GenerationConfig

    def run(prompts: list[list[int]], new: int) -> int:
        config = generation_config(
            max_new_tokens=new, do_sample=False, eos_token_id=-1, pad_token_id=1, num_blocks=1024
        )
        answers = model.generate_batch(inputs=prompts, generation_config=config, progress_bar=False)
        return sum(len(answer.generated_tokens) for answer in answers.values())

    return run


def _transformers_model(options: argparse.Namespace) -> Any:
    torch: Any = importlib.import_module("torch")
    classes: Any = importlib.import_module("transformers").AutoModelForCausalLM
    torch.set_num_threads(options.threads)
    model = classes.from_pretrained(options.model, dtype=getattr(torch, options.dtype))
    return model.to(options.device).eval()


def _vllm(options: argparse.Namespace, stages: int = 1) -> Run:
    """Run vLLM in this process's own environment; its threads are its own choice."""
    vllm: Any = importlib.import_module("vllm")
    engine = vllm.LLM(
        options.model,
        dtype=options.dtype,
        pipeline_parallel_size=stages,
        max_model_len=1024,
        enable_prefix_caching=False,
        distributed_executor_backend="mp" if stages > 1 else None,
    )

    def run(prompts: list[list[int]], new: int) -> int:
        sampling = vllm.SamplingParams(max_tokens=new, temperature=0, ignore_eos=True)
        inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
        outputs = engine.generate(inputs, sampling, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    return run


def _vllm_pipeline(options: argparse.Namespace) -> Run:
    return _vllm(options, stages=2)


def _llama_cpp(options: argparse.Namespace) -> Run:
    from benchmarks.llama_cpp_peer import load

    return load(options.model, options.threads)


SYSTEMS: dict[str, Callable[[argparse.Namespace], Run]] = {
    "transformers": _transformers,
    "continuous": _continuous,
    "vllm": _vllm,
    "vllm-pp2": _vllm_pipeline,
    "llama.cpp": _llama_cpp,
}

if __name__ == "__main__":
    main()
