// RMSNorm over the width of every row: forward and backward.
//
// forward   n = x rstd;  out = n w
// backward  d_x = rstd (d_out w - n mean(d_out w n));  d_w = sum d_out n
//
// Nothing is saved but the inputs: rstd is one sum over a row that is read anyway.
#include "rows.h"

namespace LEVEL {

template <class T, bool PAST_CACHE>
static void forward(int threads, Chunks chunks, int64_t width, float eps, Rows<const T> x, const float* weight,
                    Rows<T> out) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t task = 0; task < chunks.count(); ++task) {
        for (int64_t n = chunks.first(task); n < chunks.end(task); ++n) {
            const T* xs = x.at(0, n);
            T* to = out.at(0, n);
            const Vec factor = fill(inverse_rms(xs, width, eps));
            columns(width, [&](int64_t at, auto lanes) {
                put<PAST_CACHE>(to + at, load(xs + at, lanes) * factor * load(weight + at, lanes), lanes);
                prefetch_next(x, xs, at);
            });
        }
        if (PAST_CACHE) end_streams();
    }
}

template <class T, bool PAST_CACHE>
static void backward(int threads, Chunks chunks, int64_t width, float eps, Rows<const T> d_out, Rows<const T> x,
                     const float* weight, Rows<T> d_x, float* partials) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t task = 0; task < chunks.count(); ++task) {
        float* d_weight = partials + task * width;
        memset(d_weight, 0, width * sizeof(float));
        for (int64_t n = chunks.first(task); n < chunks.end(task); ++n) {
            const T *grads = d_out.at(0, n), *xs = x.at(0, n);
            T* to = d_x.at(0, n);
            const Vec factor = fill(inverse_rms(xs, width, eps));
            float product[1];
            sum_columns<1>(width, product, [&](int64_t at, auto lanes, Vec* sums) {
                const Vec grad = load(grads + at, lanes), normed = load(xs + at, lanes) * factor;
                add(d_weight + at, grad * normed, lanes);
                sums[0] += grad * load(weight + at, lanes) * normed;
            });
            const Vec mean_product = fill(product[0] / width);
            columns(width, [&](int64_t at, auto lanes) {
                const Vec through = load(grads + at, lanes) * load(weight + at, lanes);
                const Vec normed = load(xs + at, lanes) * factor;
                put<PAST_CACHE>(to + at, factor * (through - normed * mean_product), lanes);
                prefetch_next(d_out, grads, at);
                prefetch_next(x, xs, at);
            });
        }
        if (PAST_CACHE) end_streams();
    }
}

}  // namespace LEVEL

using namespace LEVEL;

// Rows are [rows, width], evenly spaced, results dense; partials are [chunks, width].
EXPORT(rms_norm_forward)
(int threads, int is_bf16, int64_t rows, int64_t width, int64_t chunk, float eps, const void* x, int64_t x_row,
 const float* weight, void* out) {
    with_storage(is_bf16, out, rows, width, [&](auto* type, auto past_cache) {
        using T = __typeof__(*type);
        forward<T, past_cache.value>(team(threads, rows * width), {1, rows, chunk}, width, eps,
                                     {(const T*)x, 0, x_row}, weight, {(T*)out, 0, width});
    });
}

EXPORT(rms_norm_backward)
(int threads, int is_bf16, int64_t rows, int64_t width, int64_t chunk, float eps, const void* d_out,
 int64_t d_out_row, const void* x, int64_t x_row, const float* weight, void* d_x, float* partials) {
    with_storage(is_bf16, d_x, rows, width, [&](auto* type, auto past_cache) {
        using T = __typeof__(*type);
        backward<T, past_cache.value>(team(threads, rows * width), {1, rows, chunk}, width, eps,
                                      {(const T*)d_out, 0, d_out_row}, {(const T*)x, 0, x_row}, weight,
                                      {(T*)d_x, 0, width}, partials);
    });
}
