/* The fused engine's products, of a layer whose sizes are constants: dense, or of the events among their factors alone.
 *
 * The generated part defines the sizes before this file (see engine.h).
 */

#ifndef QUANTAL_PRODUCTS_H
#define QUANTAL_PRODUCTS_H

#include <stdint.h>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#ifdef DOUBLE
typedef double real;
#define FLOOR __builtin_floor
#define ABS __builtin_fabs
#else
typedef float real;
#define FLOOR __builtin_floorf
#define ABS __builtin_fabsf
#endif

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif
#if defined(__AVX512F__) || defined(__aarch64__) /* 32 registers; 16 elsewhere */
#define TALL 8
#else
#define TALL 4
#endif
typedef uint64_t word __attribute__((aligned(sizeof(real)), may_alias));
typedef real vec __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(real)), may_alias));
#if defined(__clang__) /* no array that a loop over neurons writes overlaps another */
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define INDEPENDENT _Pragma("GCC ivdep")
#endif
#define INLINE static inline __attribute__((always_inline))

/* Gradients fade over time to denormal numbers, which processors handle a hundred times slower than the 0 they are. */
#if defined(__SSE__)
#define FLUSH_DENORMALS const unsigned old_mode = __builtin_ia32_stmxcsr(); __builtin_ia32_ldmxcsr(old_mode | 0x8040u)
#define RESTORE_DENORMALS __builtin_ia32_ldmxcsr(old_mode)
#else
#define FLUSH_DENORMALS (void)0
#define RESTORE_DENORMALS (void)0
#endif

#ifndef LAYER_SIZE /* the sizes of some layer, so that this file compiles and can be checked by itself */
#define LAYER_INPUTS 40
#define LAYER_SIZE 24
#define LAYER_STATES 2
#define LAYER_TABLES 3
#define LAYER_LEVELS 32 /* of the table of the state grid; 0: it has none */
#define LAYER_RECURRENT 1
#define LAYER_SPIKE 1    /* which of the states are the spikes that come back */
#define LAYER_GIVEN 0    /* the sums of the products come in, in place of what they are of */
#define LAYER_TRUNCATE 5 /* no gradient passes from a step that it divides to the step before; 0: all do */
#define LAYER_DENSE_RATE 0.5 /* above this share of entries that are not 0 a dense product is faster */
#endif

/* Rows of N values are padded with zeros to whole vectors; LANES is the most that a vector holds anywhere. */
enum {
    LANES = 16, WIDE = VECTOR_BYTES / sizeof(real),
    INPUTS = LAYER_INPUTS, INPUTS_PADDED = (INPUTS + LANES - 1) / LANES * LANES,
    N = LAYER_SIZE, N_PADDED = (N + LANES - 1) / LANES * LANES,
    WIDEST = INPUTS > N ? INPUTS : N,
    SAMPLES = 8, BLOCK_STEPS = 8, ROWS = SAMPLES * BLOCK_STEPS,
    STATES = LAYER_STATES, TABLES = LAYER_TABLES, LEVELS = LAYER_LEVELS,
    RECURRENT = LAYER_RECURRENT, GIVEN = LAYER_GIVEN, TRUNCATE = LAYER_TRUNCATE
};

/* The entries of some rows that are not 0: those of row r are at[starts[r]] to at[starts[r + 1]]. */
struct events {
    int dense; /* too many to be worth a list */
    int32_t starts[ROWS + 1], at[ROWS * WIDEST];
};

INLINE int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static void clear(int64_t count, real *values)
{
    int64_t i;
    for (i = 0; i < count; ++i) {
        values[i] = 0;
    }
}

/* Bit k is set where values[k] is not 0, k < WIDE. */
INLINE uint32_t not_zero(const real *values)
{
#if defined(__AVX512F__) && defined(DOUBLE)
    return _mm512_test_epi64_mask(_mm512_loadu_si512(values), _mm512_loadu_si512(values));
#elif defined(__AVX512F__)
    return _mm512_test_epi32_mask(_mm512_loadu_si512(values), _mm512_loadu_si512(values));
#else
    const word *words = (const word *)values;
    uint64_t any = 0;
    uint32_t mask = 0, k;
    for (k = 0; k < VECTOR_BYTES / sizeof(word); ++k) {
        any |= words[k];
    }
    for (k = 0; any != 0 && k < WIDE; ++k) {
        mask |= (uint32_t)(values[k] != 0) << k;
    }
    return mask;
#endif
}

/* Lists the events of `count` rows, `width` long, unless more than LAYER_DENSE_RATE of the entries are. */
static void list_events(int64_t count, int64_t width, const real *const *rows, struct events *events)
{
    const int64_t limit = (int64_t)(LAYER_DENSE_RATE * (double)(count * width));
    int32_t found = 0;
    int64_t r, e;
    uint32_t mask;
    events->dense = 0;
    for (r = 0; r < count; ++r) {
        const real *later = rows[least(r + 2, count - 1)]; /* rows lie apart: no processor sees where it goes on */
        events->starts[r] = found;
        for (e = 0; e + WIDE <= width; e += WIDE) {
            __builtin_prefetch(later + e);
            for (mask = not_zero(rows[r] + e); mask != 0; mask &= mask - 1) {
                events->at[found++] = (int32_t)e + __builtin_ctz(mask);
            }
        }
        for (; e < width; ++e) {
            if (rows[r][e] != 0) {
                events->at[found++] = (int32_t)e;
            }
        }
        if (found > limit) {
            events->dense = 1;
            return;
        }
    }
    events->starts[count] = found;
}

/* Adds a (m, depth) times b (depth, ·) to the m rows and n vectors at c. Transposed, a is given as (depth, m). */
INLINE void tile(int m, int n, int transposed, int64_t depth, const real *const *a, int64_t first, const real *b,
                 int64_t b_stride, real *c, int64_t c_stride)
{
    vec sums[TALL][2], right[2];
    int64_t k;
    int r, s;
    for (r = 0; r < m; ++r) {
        for (s = 0; s < n; ++s) {
            sums[r][s] = *(const vec *)(c + r * c_stride + s * WIDE);
        }
    }
    for (k = 0; k < depth; ++k) {
        for (s = 0; s < n; ++s) {
            right[s] = *(const vec *)(b + k * b_stride + s * WIDE);
        }
        for (r = 0; r < m; ++r) {
            const real value = transposed ? a[k][first + r] : a[first + r][k];
            for (s = 0; s < n; ++s) {
                sums[r][s] += value * right[s];
            }
        }
    }
    for (r = 0; r < m; ++r) {
        for (s = 0; s < n; ++s) {
            *(vec *)(c + r * c_stride + s * WIDE) = sums[r][s];
        }
    }
}

/* c (m, n) += a (m, depth) times b (depth, n), n in whole vectors. Transposed, a is given as (depth, m). */
INLINE void multiply(int transposed, int64_t m, int64_t n, int64_t depth, const real *const *a, const real *b, real *c)
{
    int64_t column, row;
    for (column = 0; column < n;) {
        const int wide = column + 2 * WIDE <= n;
        for (row = 0; row < m;) {
            const int tall = row + TALL <= m;
            real *to = c + row * n + column;
            if (wide && tall) {
                tile(TALL, 2, transposed, depth, a, row, b + column, n, to, n);
            } else if (wide) {
                tile(1, 2, transposed, depth, a, row, b + column, n, to, n);
            } else if (tall) {
                tile(TALL, 1, transposed, depth, a, row, b + column, n, to, n);
            } else {
                tile(1, 1, transposed, depth, a, row, b + column, n, to, n);
            }
            row += tall ? TALL : 1;
        }
        column += wide ? 2 * WIDE : WIDE;
    }
}

/* n vectors of sums: the rows of `weights` that the events name, times their values. */
INLINE void add_rows(int n, int32_t count, const int32_t *at, const real *values, const real *weights, real *sums)
{
    vec total[8];
    int32_t e;
    int s;
    for (s = 0; s < n; ++s) {
        total[s] = (vec){0};
    }
    for (e = 0; e < count; ++e) {
        const real value = values[at[e]];
        const real *row = weights + (int64_t)at[e] * N_PADDED;
        for (s = 0; s < n; ++s) {
            total[s] += value * *(const vec *)(row + s * WIDE);
        }
    }
    for (s = 0; s < n; ++s) {
        *(vec *)(sums + s * WIDE) = total[s];
    }
}

/* sums (count, n) = rows (count, width) times weights (width, n). Leaves the events of the rows behind. */
static void product(int64_t count, int64_t width, const real *const *rows, const real *weights, struct events *events,
                    real *sums)
{
    int64_t r, column;
    list_events(count, width, rows, events);
    if (events->dense) {
        clear(count * N_PADDED, sums);
        multiply(0, count, N_PADDED, width, rows, weights, sums);
        return;
    }
    for (r = 0; r < count; ++r) {
        const int32_t *at = events->at + events->starts[r], found = events->starts[r + 1] - events->starts[r];
        for (column = 0; column + 8 * WIDE <= N_PADDED; column += 8 * WIDE) {
            add_rows(8, found, at, rows[r], weights + column, sums + r * N_PADDED + column);
        }
        for (; column < N_PADDED; column += WIDE) {
            add_rows(1, found, at, rows[r], weights + column, sums + r * N_PADDED + column);
        }
    }
}

/* grad_weights (width, n) += rows (count, width), transposed, times grads (count, n). */
static void product_gradient(int64_t count, int64_t width, const real *const *rows, const struct events *events,
                             const real *grads, real *grad_weights)
{
    int64_t r, i;
    int32_t e;
    if (events->dense) {
        multiply(1, width, N_PADDED, count, rows, grads, grad_weights);
        return;
    }
    for (r = 0; r < count; ++r) {
        const real *grad = grads + r * N_PADDED;
        for (e = events->starts[r]; e < events->starts[r + 1]; ++e) {
            const real value = rows[r][events->at[e]];
            real *to = grad_weights + (int64_t)events->at[e] * N_PADDED;
            INDEPENDENT
            for (i = 0; i < N_PADDED; ++i) {
                to[i] += value * grad[i];
            }
        }
    }
}

#endif
