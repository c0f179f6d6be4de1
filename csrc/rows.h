// Rows of tensors, and how the work on them is cut into tasks.
#pragma once

#include "simd.h"

namespace LEVEL {

constexpr int64_t MAX_WIDTH = 8192;

// Fewer elements than this do not pay for waking a thread.
constexpr int64_t ELEMENTS_PER_THREAD = 16384;

// Results of this size leave the cache before anyone reads them; written past it they cost half the traffic.
constexpr int64_t PAST_CACHE_BYTES = 4 << 20;

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

INLINE int team(int threads, int64_t elements) {
    return static_cast<int>(smaller(threads, 1 + elements / ELEMENTS_PER_THREAD));
}

// A tensor [groups, rows, width] with a dense last axis.
template <class T>
struct Rows {
    T* base;
    int64_t group, row;
    T* at(int64_t g, int64_t n) const { return base + g * group + n * row; }
};

// Rows cut into chunks. A chunk has the same rows on any number of threads, so sums over it have the same bits.
struct Chunks {
    int64_t groups, rows, chunk;
    int64_t per_group() const { return (rows + chunk - 1) / chunk; }
    int64_t count() const { return groups * per_group(); }
    int64_t group(int64_t task) const { return task / per_group(); }
    int64_t first(int64_t task) const { return task % per_group() * chunk; }
    int64_t end(int64_t task) const { return smaller(first(task) + chunk, rows); }
};

// The same columns of the next row: it arrives while this one is written.
template <class T>
INLINE void prefetch_next(const Rows<const T>& tensor, const T* row, int64_t at) {
    __builtin_prefetch(row + tensor.row + at);
}

// What RMSNorm multiplies a row by.
template <class T>
INLINE float inverse_rms(const T* x, int64_t width, float eps) {
    float squares[1];
    sum_columns<1>(width, squares, [&](int64_t at, auto lanes, Vec* sums) {
        const Vec value = load(x + at, lanes);
        sums[0] += value * value;
    });
    return 1 / __builtin_sqrtf(squares[0] / width + eps);
}

template <bool VALUE>
struct Flag {
    static constexpr bool value = VALUE;
};

template <class Body>
INLINE void with_flag(bool flag, Body body) {
    flag ? body(Flag<true>{}) : body(Flag<false>{});
}

// body(T*, past_cache) with the storage type T of rows of results, dense, that begin at `results`.
template <class Body>
INLINE void with_storage(int is_bf16, const void* results, int64_t rows, int64_t width, Body body) {
    const bool aligned = reinterpret_cast<uintptr_t>(results) % sizeof(Vec) == 0 && width % LANES == 0;
    if (is_bf16)
        body(static_cast<bf16*>(nullptr), Flag<false>{});
    else
        with_flag(aligned && rows * width * 4 >= PAST_CACHE_BYTES,
                  [&](auto past_cache) { body(static_cast<float*>(nullptr), past_cache); });
}

}  // namespace LEVEL
