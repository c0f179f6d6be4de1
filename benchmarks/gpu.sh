#!/usr/bin/env bash
# Every kernel's values and gradients, then its speed, on a machine with a CUDA GPU: ten minutes, nothing installed.
#
#     OUT=folder benchmarks/gpu.sh
#
# Needs Python 3.11 or newer with torch, triton and einops; the checkout is used where it lies. Results (JSON, and
# the text of the checks) go to $OUT. A kernel with a wrong value fails the script and gets no speed.
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-benchmarks/results}
export PYTHONPATH=.
mkdir -p "$OUT"
status=0

if ! python -c 'import jaxtyping' 2>/dev/null; then
    # It only annotates shapes: a stand-in will do where it is not installed.
    stub=$(mktemp -d)
    trap 'rm -r "$stub"' EXIT
    printf 'class Float:\n    def __class_getitem__(cls, item):\n        return item[0]\n\n\nInt = Bool = Float\n' \
        >"$stub/jaxtyping.py"
    export PYTHONPATH=.:$stub
fi

python -c 'import torch; assert torch.cuda.is_available(), "no CUDA GPU"; print(torch.cuda.get_device_name())' || exit 1

timeout 150 python benchmarks/kernel_gate.py 2>&1 | tee "$OUT/kernel_gate_cuda.txt" || status=1

timeout 400 python benchmarks/kernel_bench.py --device cuda --limit 300 \
    --json "$OUT/kernel_bench_cuda.json" 2>&1 | tee "$OUT/kernel_bench_cuda.txt" || status=1

timeout 200 python benchmarks/block_bench.py --limit 120 \
    --json "$OUT/block_bench_cuda.json" 2>&1 | tee "$OUT/block_bench_cuda.txt" || status=1

exit $status
