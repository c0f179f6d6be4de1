// The gated residual without a norm, and the second stage of every column sum.
//
// forward   out = x + gate y
// backward  d_x = d_out (the same tensor);  d_y = gate d_out;  d_gate = sum d_out y
#include "rows.h"

namespace LEVEL {

// Partials are added in runs of this many, then the runs: the error grows with the square root of their number.
constexpr int64_t RUN = 32;

template <class T, bool PAST_CACHE>
static void forward(int threads, Chunks chunks, int64_t width, Rows<const T> x, Rows<const T> y, Rows<const float> gate,
                    Rows<T> out) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t task = 0; task < chunks.count(); ++task) {
        const int64_t g = chunks.group(task);
        const float* gates = gate.at(g, 0);
        for (int64_t n = chunks.first(task); n < chunks.end(task); ++n) {
            const T *xs = x.at(g, n), *ys = y.at(g, n);
            T* to = out.at(g, n);
            columns(width, [&](int64_t at, auto lanes) {
                put<PAST_CACHE>(to + at, load(xs + at, lanes) + load(gates + at, lanes) * load(ys + at, lanes), lanes);
            });
        }
        if (PAST_CACHE) end_streams();
    }
}

template <class T, bool PAST_CACHE>
static void backward(int threads, Chunks chunks, int64_t width, Rows<const T> d_out, Rows<const T> y,
                     Rows<const float> gate, Rows<T> d_y, float* partials) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t task = 0; task < chunks.count(); ++task) {
        const int64_t g = chunks.group(task);
        const float* gates = gate.at(g, 0);
        float* d_gate = partials + task * width;
        memset(d_gate, 0, width * sizeof(float));
        for (int64_t n = chunks.first(task); n < chunks.end(task); ++n) {
            const T *grads = d_out.at(g, n), *ys = y.at(g, n);
            T* to = d_y.at(g, n);
            columns(width, [&](int64_t at, auto lanes) {
                const Vec grad = load(grads + at, lanes);
                add(d_gate + at, grad * load(ys + at, lanes), lanes);
                put<PAST_CACHE>(to + at, grad * load(gates + at, lanes), lanes);
            });
        }
        if (PAST_CACHE) end_streams();
    }
}

}  // namespace LEVEL

using namespace LEVEL;

EXPORT(residual_forward)
(int threads, int is_bf16, int64_t groups, int64_t rows, int64_t width, int64_t chunk, const void* x, int64_t x_group,
 int64_t x_row, const void* y, int64_t y_group, int64_t y_row, const float* gate, int64_t gate_group, void* out) {
    const Chunks chunks{groups, rows, chunk};
    with_storage(is_bf16, out, groups * rows, width, [&](auto* type, auto past_cache) {
        using T = __typeof__(*type);
        forward<T, past_cache.value>(team(threads, groups * rows * width), chunks, width,
                                     {(const T*)x, x_group, x_row}, {(const T*)y, y_group, y_row},
                                     {gate, gate_group, 0}, {(T*)out, rows * width, width});
    });
}

EXPORT(residual_backward)
(int threads, int is_bf16, int64_t groups, int64_t rows, int64_t width, int64_t chunk, const void* d_out,
 int64_t d_out_group, int64_t d_out_row, const void* y, int64_t y_group, int64_t y_row, const float* gate,
 int64_t gate_group, void* d_y, float* partials) {
    const Chunks chunks{groups, rows, chunk};
    with_storage(is_bf16, d_y, groups * rows, width, [&](auto* type, auto past_cache) {
        using T = __typeof__(*type);
        backward<T, past_cache.value>(team(threads, groups * rows * width), chunks, width,
                                      {(const T*)d_out, d_out_group, d_out_row}, {(const T*)y, y_group, y_row},
                                      {gate, gate_group, 0}, {(T*)d_y, rows * width, width}, partials);
    });
}

// sums[g] = partials[g, 0] + ... + partials[g, chunks - 1], each of `size` floats.
EXPORT(add_partials)
(int threads, int64_t groups, int64_t chunks, int64_t size, const float* partials, float* sums) {
    const int64_t block = 16 * LANES, blocks = (size + block - 1) / block;
#pragma omp parallel for num_threads(team(threads, groups * chunks * size)) schedule(static)
    for (int64_t task = 0; task < groups * blocks; ++task) {
        const int64_t g = task / blocks, first = task % blocks * block;
        columns(smaller(block, size - first), [&](int64_t at, auto lanes) {
            const float* from = partials + g * chunks * size + first + at;
            Vec sum = {};
            for (int64_t start = 0; start < chunks; start += RUN) {
                Vec run = {};
                for (int64_t chunk = start; chunk < smaller(start + RUN, chunks); ++chunk)
                    run += load(from + chunk * size, lanes);
                sum += run;
            }
            store(sums + g * size + first + at, sum, lanes);
        });
    }
}
