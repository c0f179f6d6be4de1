#!/usr/bin/env bash
# Values and gradients of every kernel, then speed: of kernels, of the block, of the training step. On a machine with
# a CUDA GPU, in less than ten minutes, with nothing to install.
#
#     OUT=folder benchmarks/gpu.sh [values] [kernels] [block] [step] [infer] [sequence] [checkpoint]
#
# Needs Python 3.11 or newer with torch, triton and einops; the checkout is used where it lies. What was printed and
# the rows (JSON) go to $OUT. An op with a wrong value fails the script and gets no speed. What matters most comes
# first; what the time does not suffice for is named and left out. TIMES=2 gives the parts twice their time: then
# `values kernels` take ten minutes, and `block` and `step` six each at most. The last three
# run where they are named, ten minutes at most each: `infer`, whose rows against diffusers, and by its hooks, need
# what `pip install .` brings; `sequence`, of a sample over all 2, 4 or 8 GPUs, and `checkpoint`, of what a save
# costs, which need what `pip install '.[train]'` brings.
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-benchmarks/results}
PYTHON=${PYTHON:-python3}
export PYTHONPATH=.${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
# what was freed at one size serves at another
export PYTORCH_CUDA_ALLOC_CONF=${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}
parts=${*:-values kernels block step}
status=0

# part, seconds after which it is ended, seconds after which it starts nothing new; script and options
run() {
    local part=$1 end=$(($2 * ${TIMES:-1})) limit=$(($3 * ${TIMES:-1}))
    shift 3
    [[ " $parts " == *" $part "* ]] || return
    # 0: the script knows no limit
    [ "$limit" = 0 ] || set -- "$@" --limit "$limit"
    timeout -k 5 "$end" "$PYTHON" "$@" 2>&1 | tee -a "$OUT/gpu.txt" || status=1
}

mkdir -p "$OUT"
"$PYTHON" -c 'import jaxtyping, tyro' 2>/dev/null || PYTHONPATH+=:benchmarks/bare
"$PYTHON" -c 'import torch; assert torch.cuda.is_available(), "no CUDA GPU"; print(torch.cuda.get_device_name())' || exit 1

run values 70 60 benchmarks/kernel_gate.py --jobs 8
run kernels 195 165 benchmarks/kernel_bench.py --device cuda --json "$OUT/kernel_bench_cuda.json"
run block 90 65 benchmarks/block_bench.py --tokens 65520 37440 --json "$OUT/block_bench_cuda.json" \
    --contestant unity "torch eager" "unity fp8" "diffusers eager" "diffusers compiled"
run block 30 15 benchmarks/block_bench.py --shape 1.3b 5b --tokens 1152 --contestant unity "unity, CUDA graph" \
    --direction both --json "$OUT/block_bench_graph_cuda.json"
# the paper's clip: every policy and precision, what the goals are about first
run step 130 110 benchmarks/step_bench.py --shape 10b --tokens 65520 --layers 2 --json "$OUT/step_bench_cuda.json" \
    --contestant "unity none" "unity none fp8" "unity selective" "unity selective fp8" "torch eager" "unity full" \
    "unity none cudnn" "unity none fa3" "unity full fp8" "unity every-2" "unity none te" "unity selective te"
# the authors' release at its own shape, in as many of its layers as fit with AdamW's moments in float32
run step 65 50 benchmarks/step_bench.py --shape 5b --tokens 1152 --layers 20 \
    --json "$OUT/step_bench_release_cuda.json" \
    --contestant "release recipe" "unity full x4" "unity full x8" "unity full x8 fp8" "unity selective x8" \
    "unity selective x8 fp8" "unity none" "torch eager"
# a step of sampling at the release's clip, by each option of inference
run infer 290 250 benchmarks/infer_bench.py --shape 1.3b 5b --tokens 1152 --json "$OUT/infer_bench_cuda.json"
# the paper's clip over all GPUs, and what a checkpoint of the model for one GPU costs the steps
gpus=$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())')
run sequence 290 250 -m torch.distributed.run --standalone --nproc-per-node "$gpus" benchmarks/step_bench.py \
    --shape 10b --tokens 65520 --layers 2 --json "$OUT/step_bench_sequence_cuda.json" --contestant \
    "unity none sp$gpus" "unity none sp$gpus fp8" "unity selective sp$gpus" "unity full sp$gpus"
run checkpoint 290 0 benchmarks/checkpoint_bench.py --json "$OUT/checkpoint_bench_cuda.json"

exit $status
