// The gated residual without a norm.
//
// forward   out = x + gate y
// backward  d_x = d_out (the same tensor);  d_y = gate d_out;  d_gate = sum d_out y
#include "rows.h"

namespace LEVEL {

struct ResidualForward {
    Shape shape;
    Tensor x, y;
    Table gate;
    void* out;
};

struct ResidualBackward {
    Shape shape;
    Tensor d_out, y;
    Table gate;
    void* d_y;
    float* d_gate;
};

template <class T, bool PAST_CACHE>
static void forward(const ResidualForward& a) {
    const Rows<const T> x = a.x, y = a.y;
    const Rows<T> out = a.shape.dense(a.out);
    const int64_t width = a.shape.width;
    const Chunks chunks(a.shape);
#pragma omp parallel for num_threads(a.shape.team()) schedule(static)
    for (int64_t task = 0; task < chunks.count(); ++task) {
        const auto [g, first, end] = chunks[task];
        const float* gate = a.gate.at(g);
        for (int64_t n = first; n < end; ++n) {
            const T *xs = x.at(g, n), *ys = y.at(g, n);
            T* to = out.at(g, n);
            columns(width, [&](int64_t at, auto lanes) {
                put<PAST_CACHE>(to + at, load(xs + at, lanes) + load(gate + at, lanes) * load(ys + at, lanes), lanes);
            });
        }
        if (PAST_CACHE) end_streams();
    }
}

template <class T, bool PAST_CACHE>
static void backward(const ResidualBackward& a) {
    const Rows<const T> d_out = a.d_out, y = a.y;
    const Rows<T> d_y = a.shape.dense(a.d_y);
    const int64_t width = a.shape.width;
    const Chunks chunks(a.shape);
    Partials partials(chunks.count(), width);
#pragma omp parallel for num_threads(a.shape.team()) schedule(static)
    for (int64_t task = 0; task < chunks.count(); ++task) {
        const auto [g, first, end] = chunks[task];
        const float* gate = a.gate.at(g);
        float* d_gate = partials.of(task);
        for (int64_t n = first; n < end; ++n) {
            const T *grads = d_out.at(g, n), *ys = y.at(g, n);
            T* to = d_y.at(g, n);
            columns(width, [&](int64_t at, auto lanes) {
                const Vec grad = load(grads + at, lanes);
                add(d_gate + at, grad * load(ys + at, lanes), lanes);
                put<PAST_CACHE>(to + at, grad * load(gate + at, lanes), lanes);
            });
        }
        if (PAST_CACHE) end_streams();
    }
    partials.add_up(a.shape.threads, chunks.groups, chunks.per_group, a.d_gate);
}

}  // namespace LEVEL

EXPORT_PASS(residual_forward, ResidualForward, forward, out)
EXPORT_PASS(residual_backward, ResidualBackward, backward, d_y)
