/* The fused engine's fixed part: one layer's time loop, forward and backward, around steps that quantal generates.
 *
 * Samples are independent. They come in groups, each with gradients of its own, which `collect` adds in order: so the
 * number of threads changes nothing. A group goes through time a few samples at once, in blocks of a few steps, whose
 * products stay in the cache; backward computes them again from the events that made them.
 *
 * Everything is constant but the data: the generated part has the sizes of its layer before this file, and behind it
 * its steps, and `forward` and `backward`, which call `forward_by` and `backward_by` with them.
 */

#ifndef QUANTAL_PRODUCTS_H /* where both are pasted into one text, it is there */
#include "products.h"
#endif

struct job {
    int64_t steps, batch, group_samples, step_stride, sample_stride;
    const real *x;                            /* (steps, batch, inputs) by the strides */
    const real *weights, *recurrent;          /* (inputs or n, n padded): a spike adds a row; no weights where GIVEN */
    const real *tables;                       /* (tables, n) */
    const real *borders, *levels, *rises, *sharpness; /* of the state grid: (levels - 1), (levels), (ranges, levels), 1 */
    void *states[STATES];                     /* (1 + steps, batch, n): at first, and after each step */
    real *out;                                /* (steps, batch, n); a state that is the output lies there */
    const real *weights_back, *recurrent_back; /* (n, inputs or n padded) */
    const real *grad_out;                     /* (steps, batch, n) */
    real *grad_x;                             /* (steps, batch, inputs), or 0 where nobody asks */
    real *grad_weights, *grad_recurrent;      /* (groups, inputs or n, n padded) */
    real *grad_tables;                        /* (groups, tables, n) */
};

/* What a thread needs of its own, zero at first. */
struct scratch {
    const real *x_rows[ROWS], *spike_rows[ROWS], *grad_rows[ROWS];
    struct events x_events, spike_events;
    real product[ROWS * N_PADDED], feedback[ROWS * N_PADDED];
    real to_product[ROWS * N_PADDED], to_feedback[ROWS * N_PADDED];
    real to_x[ROWS * INPUTS_PADDED];
    real carry[STATES * SAMPLES * N_PADDED];
};

int64_t scratch_bytes(void)
{
    return sizeof(struct scratch);
}

/* The inputs at steps t0 to t1 of samples b0 to b1: row (t - t0)(b1 - b0) + b - b0. Returns how many. */
static int64_t input_rows(const struct job *job, int64_t t0, int64_t t1, int64_t b0, int64_t b1, const real **rows)
{
    int64_t t, b, count = 0;
    for (t = t0; t < t1; ++t) {
        for (b = b0; b < b1; ++b) {
            rows[count++] = job->x + t * job->step_stride + b * job->sample_stride;
        }
    }
    return count;
}

/* The spikes that steps t0 to t1 see: those of the step before. */
static int64_t spike_rows(const struct job *job, int64_t t0, int64_t t1, int64_t b0, int64_t b1,
                          const real **rows)
{
    const real *const spikes = job->states[LAYER_SPIKE];
    int64_t t, b, count = 0;
    for (t = t0; t < t1; ++t) {
        for (b = b0; b < b1; ++b) {
            rows[count++] = spikes + (t * job->batch + b) * N;
        }
    }
    return count;
}

/* How many borders lie at or below the value. */
INLINE real code_of(const real *borders, real value)
{
    int32_t code = 0, half;
    if (LEVELS <= 16) {
        for (half = 0; half < LEVELS - 1; ++half) {
            code += value >= borders[half];
        }
    } else {
        for (half = LEVELS / 2; half != 0; half /= 2) {
            code += value >= borders[code + half - 1] ? half : 0;
        }
    }
    return (real)code;
}

/* exp of a value up to 0, -20 where it is less: 2^n times the series of 2^r, |r| at most a half. No library's, so that it
 * is vectorized. */
INLINE real exp_of(real value)
{
    const real scaled = (value < -20 ? -20 : value) * (real)1.4426950408889634, whole = FLOOR(scaled + (real)0.5);
    const real rest = (scaled - whole) * (real)0.6931471805599453;
    real sum = 1, term;
    int32_t k;
    for (k = sizeof(real) == 8 ? 13 : 7; k != 0; --k) {
        term = rest / (real)k;
        sum = 1 + term * sum;
    }
    return sum * (real)(1.0f / (float)(1 << -(int32_t)whole));
}

/* The slope of the sum of sigmoids, their arguments kept within 10 of 0. */
INLINE real slope_at(const real *borders, const real *levels, real sharpness, real value)
{
    real slope = 0;
    int32_t k;
    for (k = 0; k < LEVELS - 1; ++k) {
        const real argument = -ABS(sharpness * (value - (borders[k] - (real)0.5)));
        const real tail = exp_of(argument < -10 ? -10 : argument);
        slope += (levels[k + 1] - levels[k]) * tail / ((1 + tail) * (1 + tail));
    }
    return sharpness * slope;
}

/* The products of some rows of the input, which are what is given where GIVEN. */
static void input_products(const struct job *job, int64_t rows, struct scratch *scratch)
{
    int64_t r, i;
    if (!GIVEN) {
        product(rows, INPUTS, scratch->x_rows, job->weights, &scratch->x_events, scratch->product);
        return;
    }
    for (r = 0; r < rows; ++r) {
        for (i = 0; i < N; ++i) {
            scratch->product[r * N_PADDED + i] = scratch->x_rows[r][i];
        }
    }
}

/* One step of one sample, from its products. */
typedef void forward_step(const struct job *job, int64_t t, int64_t b, const real *in_product, const real *in_feedback);

/* Its adjoint: from the gradients of out and of the states to those of the products, the tables and the states before. */
typedef void backward_step(const struct job *job, int64_t t, int64_t b, const real *in_product, const real *in_feedback,
                           real *to_product, real *to_feedback, real *carry, real *grad_tables);

/* Writes states and out of the samples in a group. */
INLINE void forward_by(forward_step *step, const struct job *job, int64_t group, struct scratch *scratch)
{
    const int64_t end = least(job->batch, (group + 1) * job->group_samples);
    int64_t b0, b1, b, t0, t1, t;
    for (b0 = group * job->group_samples; b0 < end; b0 = b1) {
        b1 = least(end, b0 + SAMPLES);
        for (t0 = 0; t0 < job->steps; t0 = t1) {
            t1 = least(job->steps, t0 + BLOCK_STEPS);
            input_products(job, input_rows(job, t0, t1, b0, b1, scratch->x_rows), scratch);
            for (t = t0; t < t1; ++t) {
                if (RECURRENT) {
                    product(spike_rows(job, t, t + 1, b0, b1, scratch->spike_rows), N, scratch->spike_rows,
                            job->recurrent, &scratch->spike_events, scratch->feedback);
                }
                for (b = b0; b < b1; ++b) {
                    step(job, t, b, scratch->product + ((t - t0) * (b1 - b0) + b - b0) * N_PADDED,
                         scratch->feedback + (b - b0) * N_PADDED);
                }
            }
        }
    }
}

/* The gradient of x at steps t0 and on of samples b0 to b1, from that of the products. */
static void input_gradient(const struct job *job, int64_t rows, int64_t t0, int64_t b0, int64_t b1,
                           struct scratch *scratch)
{
    const real *const gradients = GIVEN ? scratch->to_product : scratch->to_x;
    int64_t r, i;
    if (!GIVEN) {
        clear(rows * INPUTS_PADDED, scratch->to_x);
        for (r = 0; r < rows; ++r) {
            scratch->grad_rows[r] = scratch->to_product + r * N_PADDED;
        }
        multiply(0, rows, INPUTS_PADDED, N, scratch->grad_rows, job->weights_back, scratch->to_x);
    }
    for (r = 0; r < rows; ++r) {
        real *to = job->grad_x + ((t0 + r / (b1 - b0)) * job->batch + b0 + r % (b1 - b0)) * INPUTS;
        for (i = 0; i < INPUTS; ++i) {
            to[i] = gradients[r * INPUTS_PADDED + i];
        }
    }
}

/* Before a step, by its recurrent weights: what its own gradients are to the spikes of the step before. */
INLINE void spike_gradient(const struct job *job, int64_t first, int64_t samples, struct scratch *scratch)
{
    int64_t r;
    for (r = 0; r < samples; ++r) {
        scratch->grad_rows[r] = scratch->to_feedback + (first + r) * N_PADDED;
    }
    multiply(0, samples, N_PADDED, N, scratch->grad_rows, job->recurrent_back,
             scratch->carry + LAYER_SPIKE * SAMPLES * N_PADDED);
}

/* The adjoint of `forward_by`: writes the group's gradients. */
INLINE void backward_by(backward_step *step_back, const struct job *job, int64_t group,
                        struct scratch *scratch)
{
    const int64_t end = least(job->batch, (group + 1) * job->group_samples);
    real *const grad_weights = GIVEN ? 0 : job->grad_weights + group * INPUTS * N_PADDED;
    real *const grad_recurrent = RECURRENT ? job->grad_recurrent + group * N * N_PADDED : 0;
    real *const grad_tables = job->grad_tables + group * TABLES * N;
    int64_t b0, b1, b, t0, t1, t;
    FLUSH_DENORMALS;
    if (!GIVEN) {
        clear(INPUTS * N_PADDED, grad_weights);
    }
    clear(TABLES * N, grad_tables);
    if (RECURRENT) {
        clear(N * N_PADDED, grad_recurrent);
    }
    for (b0 = group * job->group_samples; b0 < end; b0 = b1) {
        b1 = least(end, b0 + SAMPLES);
        clear(STATES * SAMPLES * N_PADDED, scratch->carry);
        for (t1 = job->steps; t1 > 0; t1 = t0) {
            const int64_t samples = b1 - b0;
            int64_t rows;
            t0 = (t1 - 1) / BLOCK_STEPS * BLOCK_STEPS;
            rows = input_rows(job, t0, t1, b0, b1, scratch->x_rows);
            input_products(job, rows, scratch);
            if (RECURRENT) {
                (void)spike_rows(job, t0, t1, b0, b1, scratch->spike_rows);
                product(rows, N, scratch->spike_rows, job->recurrent, &scratch->spike_events, scratch->feedback);
            }
            for (t = t1 - 1; t >= t0; --t) {
                for (b = b0; b < b1; ++b) {
                    const int64_t here = ((t - t0) * samples + b - b0) * N_PADDED;
                    step_back(job, t, b, scratch->product + here, scratch->feedback + here, scratch->to_product + here,
                              scratch->to_feedback + here, scratch->carry + (b - b0) * N_PADDED, grad_tables);
                }
                if (RECURRENT) {
                    spike_gradient(job, (t - t0) * samples, samples, scratch);
                }
                if (TRUNCATE != 0 && t % TRUNCATE == 0) { /* no gradient passes to the step before */
                    clear(STATES * SAMPLES * N_PADDED, scratch->carry);
                }
            }
            if (!GIVEN) {
                product_gradient(rows, INPUTS, scratch->x_rows, &scratch->x_events, scratch->to_product, grad_weights);
            }
            if (RECURRENT) {
                product_gradient(rows, N, scratch->spike_rows, &scratch->spike_events, scratch->to_feedback,
                                 grad_recurrent);
            }
            if (job->grad_x != 0) {
                input_gradient(job, rows, t0, b0, b1, scratch);
            }
        }
    }
    RESTORE_DENORMALS;
}

/* total (n, width) = the groups' gradients (groups, width, n padded), added in order and transposed: one of `parts`. */
void collect(int64_t groups, int64_t width, int64_t part, int64_t parts, const real *grads, real *total)
{
    real sums[LANES][LANES];
    int64_t g, e0, e, n0, n;
    for (e0 = part * LANES; e0 < width; e0 += parts * LANES) {
        const int64_t e1 = least(width, e0 + LANES);
        for (n0 = 0; n0 < N; n0 += LANES) {
            for (e = e0; e < e1; ++e) {
                for (n = 0; n < LANES; ++n) {
                    sums[e - e0][n] = grads[e * N_PADDED + n0 + n];
                }
                for (g = 1; g < groups; ++g) {
                    for (n = 0; n < LANES; ++n) {
                        sums[e - e0][n] += grads[(g * width + e) * N_PADDED + n0 + n];
                    }
                }
            }
            for (n = n0; n < least(N, n0 + LANES); ++n) {
                for (e = e0; e < e1; ++e) {
                    total[n * width + e] = sums[e - e0][n - n0];
                }
            }
        }
    }
}
