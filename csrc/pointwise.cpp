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

// All rows are one group.
struct GeluForward {
    Shape shape;
    Tensor x;
    void* out;
};

struct GeluBackward {
    Shape shape;
    Tensor d_out, x;
    void* d_x;
};

// Dense groups (sample, stream), each one row, cut into chunks of values.
struct FlowNoise {
    Shape shape;
    const void *data, *noise;
    const float* time;
    void *noisy, *velocity;
};

template <class T, bool PAST_CACHE>
static void forward(const GeluForward& a) {
    const Rows<const T> x = a.x;
    const Rows<T> out = a.shape.dense(a.out);
    const int64_t width = a.shape.width;
    const Chunks chunks(a.shape);
#pragma omp parallel for num_threads(a.shape.team()) schedule(static)
    for (int64_t task = 0; task < chunks.count(); ++task) {
        const auto [g, first, end] = chunks[task];
        for (int64_t n = first; n < end; ++n) {
            const T* xs = x.at(g, n);
            T* to = out.at(g, n);
            columns(width, [&](int64_t at, auto lanes) {
                const Vec value = load(xs + at, lanes);
                put<PAST_CACHE>(to + at, value * logistic(value, value * value).p, lanes);
            });
        }
        if (PAST_CACHE) end_streams();
    }
}

template <class T, bool PAST_CACHE>
static void backward(const GeluBackward& a) {
    const Rows<const T> d_out = a.d_out, x = a.x;
    const Rows<T> d_x = a.shape.dense(a.d_x);
    const int64_t width = a.shape.width;
    const Chunks chunks(a.shape);
#pragma omp parallel for num_threads(a.shape.team()) schedule(static)
    for (int64_t task = 0; task < chunks.count(); ++task) {
        const auto [g, first, end] = chunks[task];
        for (int64_t n = first; n < end; ++n) {
            const T *xs = x.at(g, n), *grads = d_out.at(g, n);
            T* to = d_x.at(g, n);
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
static void noising(const FlowNoise& a) {
    const int64_t size = a.shape.width;
    const Chunks chunks(a.shape.groups, size, a.shape.chunk);
#pragma omp parallel for num_threads(a.shape.team()) schedule(static)
    for (int64_t task = 0; task < chunks.count(); ++task) {
        const auto [g, first, end] = chunks[task];
        const int64_t start = g * size + first;
        const T *data = (const T*)a.data + start, *noise = (const T*)a.noise + start;
        T *noisy = (T*)a.noisy + start, *velocity = (T*)a.velocity + start;
        const Vec time = fill(a.time[g]);
        columns(end - first, [&](int64_t at, auto lanes) {
            const Vec from = load(data + at, lanes), apart = load(noise + at, lanes) - from;
            put<PAST_CACHE>(noisy + at, from + time * apart, lanes);
            put<PAST_CACHE>(velocity + at, apart, lanes);
        });
        if (PAST_CACHE) end_streams();
    }
}

}  // namespace LEVEL

EXPORT_PASS(gelu_forward, GeluForward, forward, out)
EXPORT_PASS(gelu_backward, GeluBackward, backward, d_x)
EXPORT_PASS(flow_noise, FlowNoise, noising, noisy)
