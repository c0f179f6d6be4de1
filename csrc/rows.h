// Rows of tensors as Python hands them over, how the work on them is cut into tasks, and sums over the tasks.
#pragma once

#include <cstdlib>

#include "simd.h"

namespace LEVEL {

constexpr int64_t MAX_WIDTH = 8192;

// Fewer elements than this do not pay for waking a thread.
constexpr int64_t ELEMENTS_PER_THREAD = 16384;

// Results of this size leave the cache before anyone reads them; written past it they cost half the traffic.
constexpr int64_t PAST_CACHE_BYTES = 4 << 20;

// Partial sums are added in runs of this many, then the runs: the error grows with the square root of their number.
constexpr int64_t RUN = 32;

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

INLINE int team(int threads, int64_t elements) {
    return static_cast<int>(smaller(threads, 1 + elements / ELEMENTS_PER_THREAD));
}

// The structs from here to Shape are laid out as library.py packs them.

// A tensor [groups, rows, width] with a dense last axis; the groups and rows lie evenly spaced.
struct Tensor {
    void* base;
    int64_t group, row;
};

// A float32 vector for each group.
struct Table {
    const float* base;
    int64_t group;
    const float* at(int64_t g) const { return base + g * group; }
};

// What every kernel is told first.
struct Shape {
    int32_t threads, is_bf16;
    int64_t groups, rows, width, chunk;

    int64_t elements() const { return groups * rows * width; }
    int team() const { return LEVEL::team(threads, elements()); }
    Tensor dense(void* base, int64_t size) const { return {base, rows * size, size}; }
    Tensor dense(void* base) const { return dense(base, width); }
};

template <class T>
struct Rows {
    T* base;
    int64_t group, row;
    Rows(const Tensor& x) : base(static_cast<T*>(x.base)), group(x.group), row(x.row) {}
    T* at(int64_t g, int64_t n) const { return base + g * group + n * row; }
};

// Rows of one group.
struct Chunk {
    int64_t group, first, end;
};

// All rows cut into chunks, group after group. A chunk has the same rows on any number of threads, so sums over it
// have the same bits.
struct Chunks {
    int64_t groups, rows, size, per_group;

    Chunks(int64_t groups, int64_t rows, int64_t size)
        : groups(groups), rows(rows), size(size), per_group((rows + size - 1) / size) {}
    explicit Chunks(const Shape& shape) : Chunks(shape.groups, shape.rows, shape.chunk) {}

    int64_t count() const { return groups * per_group; }

    Chunk operator[](int64_t task) const {
        const int64_t first = task % per_group * size;
        return {task / per_group, first, smaller(first + size, rows)};
    }
};

// `size` sums over the rows of each chunk, to be added up in a fixed order.
class Partials {
   public:
    Partials(int64_t chunks, int64_t size) : size(size), pitch((size + LANES - 1) / LANES * LANES) {
        base = static_cast<float*>(aligned_alloc(sizeof(Vec), chunks * pitch * sizeof(float) + sizeof(Vec)));
    }
    Partials(const Partials&) = delete;
    ~Partials() { free(base); }

    // The sums of a chunk, all zero.
    float* of(int64_t chunk) {
        return static_cast<float*>(memset(base + chunk * pitch, 0, size * sizeof(float)));
    }

    // to[g] = the sums of the chunks of group g, which are `each` for every group; dense [groups, size].
    void add_up(int threads, int64_t groups, int64_t each, float* to) const {
        const int64_t block = 16 * LANES, blocks = (size + block - 1) / block;
#pragma omp parallel for num_threads(team(threads, groups * each * size)) schedule(static)
        for (int64_t task = 0; task < groups * blocks; ++task) {
            const int64_t g = task / blocks, first = task % blocks * block, end = (g + 1) * each;
            columns(smaller(block, size - first), [&](int64_t at, auto lanes) {
                const float* from = base + first + at;
                Vec sum = {};
                for (int64_t start = g * each; start < end; start += RUN) {
                    Vec run = {};
                    for (int64_t chunk = start; chunk < smaller(start + RUN, end); ++chunk)
                        run += load(from + chunk * pitch, lanes);
                    sum += run;
                }
                store(to + g * size + first + at, sum, lanes);
            });
        }
    }

   private:
    const int64_t size, pitch;
    float* base;
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

// Whether dense results, each row written `span` columns at a time, go past the cache.
INLINE bool past_cache(const Shape& shape, const void* results, int64_t span) {
    const bool aligned = reinterpret_cast<uintptr_t>(results) % sizeof(Vec) == 0 && span % LANES == 0;
    return !shape.is_bf16 && aligned && shape.elements() * 4 >= PAST_CACHE_BYTES;
}

// body(T*, past) with the storage type T.
template <class Body>
INLINE void with_storage(const Shape& shape, bool past, Body body) {
    if (shape.is_bf16)
        body(static_cast<bf16*>(nullptr), Flag<false>{});
    else
        with_flag(past, [&](auto past) { body(static_cast<float*>(nullptr), past); });
}

}  // namespace LEVEL

// The C function of a pass, as its two template arguments ask for it: body<storage type, past the cache>(arguments),
// whose dense results start at `results`.
#define EXPORT_PASS(name, Arguments, body, results)                                                          \
    EXPORT(name)(const LEVEL::Arguments& a) {                                                                \
        const bool past = LEVEL::past_cache(a.shape, a.results, a.shape.width);                              \
        LEVEL::with_storage(a.shape, past, [&](auto* type, auto past) {                                      \
            LEVEL::body<__typeof__(*type), past.value>(a);                                                   \
        });                                                                                                  \
    }
