// Ops without a reduction: GELU in its tanh form, forward and backward, and the noising of flow matching.
//
// gelu      x p(x),  p = 1 / (1 + exp(-2u)),  u = sqrt(2/pi) (x + 0.044715 x^3);  x (1 + tanh u) / 2 = x p
// backward  d_x = d_out (p + x p (1 - p) 2u')
// noising   noisy = data + time (noise - data);  velocity = noise - data
#include "rows.h"

namespace LEVEL {

constexpr float TWICE_ROOT_2_OVER_PI = 1.5957691216057308f;
constexpr float CUBIC = 0.044715f;

// e^x to about one unit in the last place, for |x| <= 87; beyond it the nearest of those. NaN stays NaN.
INLINE Vec exponential(Vec x) {
    x = x < -87.0f ? fill(-87.0f) : x;
    x = x > 87.0f ? fill(87.0f) : x;
    // x = n ln 2 + f with |f| <= ln 2 / 2: adding 1.5 * 2^23 rounds to the integer n and leaves it in the low bits.
    const Vec shifted = x * 1.44269504f + 12582912.0f;
    const Vec n = shifted - 12582912.0f;
    const Vec f = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    Vec series = f * 1.9875691e-4f + 1.3981999e-3f;
    series = series * f + 8.3334519e-3f;
    series = series * f + 4.1665796e-2f;
    series = series * f + 1.6666665e-1f;
    series = series * f + 5.0000001e-1f;
    series = (series * f) * f + f + 1.0f;
    const Bits power = ((Bits)shifted + 127) << 23;
    return series * (Vec)power;
}

// p of the header, and 1 - p without the cancellation.
struct Logistic {
    Vec p, rest;
};

INLINE Logistic logistic(Vec x, Vec square) {
    const Vec e = exponential(x * (square * CUBIC + 1.0f) * -TWICE_ROOT_2_OVER_PI);
    const Vec p = 1.0f / (1.0f + e);
    return {p, e * p};
}

template <class T, bool PAST_CACHE>
static void gelu(int threads, Chunks chunks, int64_t width, Rows<const T> x, Rows<T> out) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t task = 0; task < chunks.count(); ++task) {
        for (int64_t n = chunks.first(task); n < chunks.end(task); ++n) {
            const T* xs = x.at(0, n);
            T* to = out.at(0, n);
            columns(width, [&](int64_t at, auto lanes) {
                const Vec value = load(xs + at, lanes);
                put<PAST_CACHE>(to + at, value * logistic(value, value * value).p, lanes);
            });
        }
        if (PAST_CACHE) end_streams();
    }
}

template <class T, bool PAST_CACHE>
static void gelu_gradient(int threads, Chunks chunks, int64_t width, Rows<const T> d_out, Rows<const T> x,
                          Rows<T> d_x) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t task = 0; task < chunks.count(); ++task) {
        for (int64_t n = chunks.first(task); n < chunks.end(task); ++n) {
            const T *xs = x.at(0, n), *grads = d_out.at(0, n);
            T* to = d_x.at(0, n);
            columns(width, [&](int64_t at, auto lanes) {
                const Vec value = load(xs + at, lanes), square = value * value;
                const Logistic at_x = logistic(value, square);
                const Vec slope = (square * (3 * CUBIC) + 1.0f) * TWICE_ROOT_2_OVER_PI;
                const Vec derivative = at_x.p + value * at_x.p * at_x.rest * slope;
                put<PAST_CACHE>(to + at, load(grads + at, lanes) * derivative, lanes);
            });
        }
        if (PAST_CACHE) end_streams();
    }
}

template <class T, bool PAST_CACHE>
static void noising(int threads, Chunks blocks, Rows<const T> data, Rows<const T> noise, const float* time,
                    Rows<T> noisy, Rows<T> velocity) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t task = 0; task < blocks.count(); ++task) {
        const int64_t g = blocks.group(task), first = blocks.first(task);
        const Vec t = fill(time[g]);
        columns(blocks.end(task) - first, [&](int64_t at, auto lanes) {
            const Vec from = load(data.at(g, 0) + first + at, lanes);
            const Vec apart = load(noise.at(g, 0) + first + at, lanes) - from;
            put<PAST_CACHE>(noisy.at(g, 0) + first + at, from + t * apart, lanes);
            put<PAST_CACHE>(velocity.at(g, 0) + first + at, apart, lanes);
        });
        if (PAST_CACHE) end_streams();
    }
}

}  // namespace LEVEL

using namespace LEVEL;

EXPORT(gelu_forward)
(int threads, int is_bf16, int64_t rows, int64_t width, int64_t chunk, const void* x, int64_t x_row, void* out) {
    with_storage(is_bf16, out, rows, width, [&](auto* type, auto past_cache) {
        using T = __typeof__(*type);
        gelu<T, past_cache.value>(team(threads, rows * width), {1, rows, chunk}, width, {(const T*)x, 0, x_row},
                                  {(T*)out, 0, width});
    });
}

EXPORT(gelu_backward)
(int threads, int is_bf16, int64_t rows, int64_t width, int64_t chunk, const void* d_out, int64_t d_out_row,
 const void* x, int64_t x_row, void* d_x) {
    with_storage(is_bf16, d_x, rows, width, [&](auto* type, auto past_cache) {
        using T = __typeof__(*type);
        gelu_gradient<T, past_cache.value>(team(threads, rows * width), {1, rows, chunk}, width,
                                           {(const T*)d_out, 0, d_out_row}, {(const T*)x, 0, x_row},
                                           {(T*)d_x, 0, width});
    });
}

// Groups (sample, stream) of `size` values, dense; a task is `block` of them.
EXPORT(flow_noise)
(int threads, int is_bf16, int64_t groups, int64_t size, int64_t block, const void* data, int64_t data_group,
 const void* noise, int64_t noise_group, const float* time, void* noisy, void* velocity) {
    with_storage(is_bf16, noisy, groups, size, [&](auto* type, auto past_cache) {
        using T = __typeof__(*type);
        noising<T, past_cache.value>(team(threads, groups * size), {groups, size, block},
                                     {(const T*)data, data_group, 0}, {(const T*)noise, noise_group, 0}, time,
                                     {(T*)noisy, size, 0}, {(T*)velocity, size, 0});
    });
}
