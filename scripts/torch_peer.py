#!/usr/bin/env python3
"""The PyTorch side of scripts/bench: training steps of the same shapes on the CPU, in the fastest way plain PyTorch has.

Before measuring, it times each candidate way (foreach or fused AdamW; for bf16 autocast, and with `--weights any` also
weights held in bf16) for a step or two and keeps the fastest; `--way` names it outright. Prints one JSON line.
scripts/bench sets the environment (BLAS flavour, vector width, allocator) that makes PyTorch fast; run by hand without
it, this script is slower.
Works with PyTorch 1.13 and later.
"""
import argparse
import json
import os
import resource
import statistics
import sys
import time

SHAPES = {  # width, layers, heads, feed-forward width, vocabulary, positions (GPT-2) or 0
    "llama15m": (288, 6, 6, 768, 32000, 0),
    "llama110m": (768, 12, 12, 2048, 32000, 0),
    "gpt2": (768, 12, 12, 3072, 50304, 1024),
}


def make_model(torch, name, length):
    nn, F = torch.nn, torch.nn.functional
    width, layers, heads, inner, vocabulary, positions = SHAPES[name]
    is_gpt2 = positions > 0
    head = width // heads
    fused_attention = getattr(F, "scaled_dot_product_attention", None)
    fused_rms = getattr(F, "rms_norm", None)

    class RmsNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(width))

        def forward(self, x):
            if fused_rms is not None:
                return fused_rms(x, (width,), self.weight, 1e-5)
            square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square()
            return x * (square / width + 1e-5).rsqrt().to(x.dtype) * self.weight

    make_norm = (lambda: nn.LayerNorm(width)) if is_gpt2 else RmsNorm

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm_in, self.norm_mid = make_norm(), make_norm()
            self.qkv = nn.Linear(width, 3 * width, bias=is_gpt2)
            self.out = nn.Linear(width, width, bias=is_gpt2)
            self.up = nn.Linear(width, inner if is_gpt2 else 2 * inner, bias=is_gpt2)
            self.down = nn.Linear(inner, width, bias=is_gpt2)

        def attend(self, x, tables):
            rows = x.shape[0]
            q, k, v = self.qkv(x).view(rows, length, 3, heads, head).unbind(2)
            if not is_gpt2:
                q, k = rotate(q, tables), rotate(k, tables)
            q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
            if fused_attention is not None:
                y = fused_attention(q, k, v, is_causal=True)
            else:
                flat = (rows * heads, length, head)
                scores = torch.baddbmm(tables["mask"].to(q.dtype), q.reshape(flat), k.reshape(flat).transpose(1, 2), alpha=head**-0.5)
                y = torch.bmm(scores.softmax(-1), v.reshape(flat)).view(rows, heads, length, head)
            return self.out(y.transpose(1, 2).reshape(rows, length, width))

        def forward(self, x, tables):
            x = x + self.attend(self.norm_in(x), tables)
            h = self.up(self.norm_mid(x))
            if is_gpt2:
                return x + self.down(F.gelu(h, approximate="tanh"))
            gate, value = h.chunk(2, -1)
            return x + self.down(F.silu(gate) * value)

    def rotate(x, tables):
        first, second = x.chunk(2, -1)
        cos, sin = tables["cos"].to(x.dtype), tables["sin"].to(x.dtype)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = nn.Embedding(vocabulary, width)
            self.positions = nn.Embedding(positions, width) if is_gpt2 else None
            self.layers = nn.ModuleList(Layer() for _ in range(layers))
            self.norm = make_norm()
            for p in self.parameters():
                if p.dim() > 1:
                    nn.init.normal_(p, std=0.02)
            angle = torch.outer(torch.arange(length).float(), 10000.0 ** (-torch.arange(0, head, 2).float() / head))
            self.tables = {"cos": angle.cos()[:, None], "sin": angle.sin()[:, None],
                           "mask": torch.full((length, length), float("-inf")).triu(1)}

        def forward(self, ids, targets):
            x = self.tokens(ids)
            if is_gpt2:
                x = x + self.positions.weight[:length]
            for layer in self.layers:
                x = layer(x, self.tables)
            logits = F.linear(self.norm(x), self.tokens.weight).view(-1, vocabulary)
            if torch.is_autocast_cpu_enabled():
                return F.cross_entropy(logits, targets.reshape(-1))
            return F.cross_entropy(logits.float(), targets.reshape(-1))

    return Model()


def flops_per_token(name, length):
    """Forward and backward: six for each weight of a matrix product, and the attention products over all pairs."""
    width, layers, _, inner, vocabulary, positions = SHAPES[name]
    weights = layers * (4 * width * width + (2 if positions else 3) * width * inner) + vocabulary * width
    return 6 * weights + 12 * layers * width * length


class Job:
    """A model, its optimizer and data; step() is one training step and says how long it took."""

    def __init__(self, torch, options, way, rank):
        mode, optimizer = way.split(",")
        self.torch, self.autocast, self.count = torch, mode == "autocast", 0
        rows = options.batch // options.ranks
        torch.manual_seed(1)
        model = make_model(torch, options.model, options.seq)
        if mode == "bf16":
            model = model.to(torch.bfloat16)
        self.net = model
        if options.ranks > 1:
            self.net = torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, **{optimizer: True})
        generator = torch.Generator().manual_seed(7 + rank)
        vocabulary = SHAPES[options.model][4]
        self.data = [torch.randint(0, vocabulary, (rows, options.seq + 1), generator=generator) for _ in range(4)]

    def step(self):
        batch = self.data[self.count % len(self.data)]
        self.count += 1
        start = time.perf_counter()
        with self.torch.autocast("cpu", dtype=self.torch.bfloat16, enabled=self.autocast):
            loss = self.net(batch[:, :-1], batch[:, 1:])
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.loss = float(loss.detach())
        return time.perf_counter() - start


def ways(options):
    modes = ["fp32"] if options.dtype == "fp32" else ["autocast", "bf16"] if options.weights == "any" else ["autocast"]
    return [f"{mode},{optimizer}" for mode in modes for optimizer in ("foreach", "fused")]


def choose_way(torch, options):
    """The fastest of the ways that this PyTorch has."""
    best = None
    for way in ways(options):
        try:
            job = Job(torch, options, way, 0)
            job.step()
            took = min(job.step() for _ in range(3))
        except (RuntimeError, TypeError):  # no fused AdamW for the CPU, or no bf16 kernel: an older PyTorch
            continue
        if best is None or took < best[0]:
            best = (took, way)
        del job
    if best is None:
        raise SystemExit(f"torch_peer: none of {ways(options)} runs on PyTorch {torch.__version__}")
    return best[1]


def work(rank, options, port):
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    import torch

    torch.set_num_threads(options.threads)
    if options.ranks > 1:
        cpus = sorted(os.sched_getaffinity(0))
        mine = {cpus[(rank * options.threads + i) % len(cpus)] for i in range(options.threads)}
        os.sched_setaffinity(0, mine)
        torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=options.ranks)
    job = Job(torch, options, options.way, rank)
    for _ in range(options.warmup):
        job.step()
    times = [job.step() for _ in range(options.steps)]
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if options.ranks > 1:
        largest = torch.tensor([float(rss)])
        torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
        rss = largest.item()
    if rank == 0:
        step = statistics.median(times)
        tokens = options.batch * options.seq / step
        print(json.dumps({
            "who": "pytorch", "version": torch.__version__, "model": options.model, "dtype": options.dtype, "batch": options.batch,
            "seq": options.seq, "ranks": options.ranks, "threads": options.threads, "way": options.way,
            "step_ms": round(step * 1e3, 2), "step_ms_min": round(min(times) * 1e3, 2), "tokens_per_s": round(tokens, 1),
            "gflops": round(tokens * flops_per_token(options.model, options.seq) * 1e-9, 1), "loss": round(job.loss, 4),
            "peak_rss_mb": round(rss / 1024)}), flush=True)
    if options.ranks > 1:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def free_port():
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def chosen_in_a_child(options):
    """Chooses in a process of its own, so that what the losing ways allocated is not in the peak that is reported."""
    import subprocess

    args = [sys.executable, os.path.abspath(__file__), *sys.argv[1:], "--choose"]
    return subprocess.run(args, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SHAPES, default="llama15m")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--batch", type=int, default=8, help="rows of the global batch")
    parser.add_argument("--seq", type=int, default=256)
    parser.add_argument("--ranks", type=int, default=1, help="data-parallel processes (DistributedDataParallel on gloo)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of each rank")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--weights", choices=["fp32", "any"], default="fp32", help="how bf16 training keeps the weights: fp32 (autocast), or any")
    parser.add_argument("--way", default="", help="MODE,OPTIMIZER, such as autocast,foreach; empty: the fastest")
    parser.add_argument("--choose", action="store_true", help="print the fastest way and stop")
    options = parser.parse_args()
    if options.batch % options.ranks:
        parser.error("--batch must be a multiple of --ranks")
    if options.choose:
        import torch

        options.ranks, options.batch = 1, options.batch // options.ranks
        torch.set_num_threads(options.threads)
        print(choose_way(torch, options))
        return 0
    options.way = options.way or chosen_in_a_child(options)
    if options.ranks == 1:
        work(0, options, 0)
        return 0
    import multiprocessing

    context = multiprocessing.get_context("spawn")
    port = free_port()
    ranks = [context.Process(target=work, args=(rank, options, port)) for rank in range(options.ranks)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    return max(abs(process.exitcode) for process in ranks)


if __name__ == "__main__":
    sys.exit(main())
