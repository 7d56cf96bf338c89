/* See ewc.h. */
#include "ewc.h"

#include <math.h>
#include <string.h>

#include "kernels.h"
#include "settings.h"

struct anchor {
    struct anchor_header *header;
    float *weights, *information;
};

static struct anchor anchor_in(const struct model *m, uint8_t *part)
{
    float *rows = (float *)(part + sizeof(struct anchor_header));
    const struct anchor anchor = {(struct anchor_header *)part, rows,
                                  rows + m->geometry->hidden_dim};
    return anchor;
}

static struct anchor anchor_of(const struct model *m, uint64_t route)
{
    const struct geometry *g = m->geometry;
    return anchor_in(m, m->slow + g->slow_anchors + route * g->anchor_stride);
}

static struct anchor task_anchor(const struct model *m, uint64_t task, uint64_t route)
{
    const struct geometry *g = m->geometry;
    return anchor_in(m, m->slow + g->slow_tasks + task * g->task_stride + g->task_heads +
                            route * g->anchor_stride);
}

struct begun {
    uint64_t *outcomes;
    float *squared;
};

static struct begun begun_of(const struct model *m, uint64_t route)
{
    const struct geometry *g = m->geometry;
    struct begun_header *header =
        (struct begun_header *)(m->slow + g->slow_begun + route * g->begun_stride);
    const struct begun begun = {&header->outcomes, (float *)(header + 1)};
    return begun;
}

/* ---- memory ---- */

void heads_remember(const struct model *m, uint64_t task)
{
    const struct geometry *g = m->geometry;
    for (uint64_t k = 0; k < model_routes(m); k++) {
        const struct anchor anchor = task_anchor(m, task, k);
        const struct begun begun = begun_of(m, k);
        const uint64_t outcomes = model_route(m, k)->outcomes;
        memcpy(anchor.weights, route_floats(m, k, g->route_head), g->hidden_dim * sizeof(float));
        add_gain(anchor.information, route_floats(m, k, g->route_squared), begun.squared,
                 g->hidden_dim);
        anchor.header->outcomes += (double)(outcomes - *begun.outcomes);
    }
}

void heads_resume(const struct model *m, uint64_t task)
{
    const struct geometry *g = m->geometry;
    const uint64_t left = model_detector(m)->current;
    for (uint64_t k = 0; k < model_routes(m); k++) {
        const struct anchor own = task_anchor(m, task, k), other = task_anchor(m, left, k);
        merge_weights(route_floats(m, k, g->route_head), other.information, own.weights,
                      own.information, (float)(1.0 / TRANSFER), g->hidden_dim);
    }
}

void heads_merge(const struct model *m, uint64_t into, uint64_t from)
{
    const size_t n = m->geometry->hidden_dim;
    for (uint64_t k = 0; k < m->geometry->routes; k++) {
        const struct anchor kept = task_anchor(m, into, k), other = task_anchor(m, from, k);
        merge_weights(kept.weights, kept.information, other.weights, other.information, 1.0f, n);
        add_scaled(kept.information, 1.0f, other.information, n);
        kept.header->outcomes += other.header->outcomes;
    }
}

void heads_forget(const struct model *m, uint64_t task)
{
    memset(task_anchor(m, task, 0).header, 0, m->geometry->routes * m->geometry->anchor_stride);
}

/* ---- penalty ---- */

void anchors_consolidate(const struct model *m)
{
    const struct geometry *g = m->geometry;
    struct task_detector *detector = model_detector(m);
    memset(m->slow + g->slow_anchors, 0, g->routes * g->anchor_stride);
    for (uint64_t k = 0; k < model_routes(m); k++) {
        const struct anchor anchor = anchor_of(m, k);
        const struct begun begun = begun_of(m, k);
        for (uint64_t task = 0; task < detector->tasks; task++) {
            if (task == detector->current) continue;
            const struct anchor other = task_anchor(m, task, k);
            merge_weights(anchor.weights, anchor.information, other.weights, other.information,
                          1.0f, g->hidden_dim);
            add_scaled(anchor.information, 1.0f, other.information, g->hidden_dim);
            anchor.header->outcomes += other.header->outcomes;
        }
        *begun.outcomes = model_route(m, k)->outcomes;
        memcpy(begun.squared, route_floats(m, k, g->route_squared), g->hidden_dim * sizeof(float));
    }
    detector->anchor_error = detector->head_error = (struct discounted){0.0, 0.0};
}

static void error_add(struct discounted *sum, double error)
{
    sum->sum = (1.0 - ANCHOR_ERROR_DECAY) * sum->sum + error * error;
    sum->weight = (1.0 - ANCHOR_ERROR_DECAY) * sum->weight + 1.0;
}

/* 1 where the anchors predict as well as the heads, less where they do not. */
static double trust(const struct task_detector *d)
{
    const double ratio =
        (d->head_error.sum + ANCHOR_ERROR_PRIOR) / (d->anchor_error.sum + ANCHOR_ERROR_PRIOR);
    return ratio < 1.0 ? ratio * ratio : 1.0;
}

void anchor_pull(const struct model *m, const struct learning_rates *rates,
                 const struct outcome *o, const struct features *f, const struct estimate *e)
{
    const struct geometry *g = m->geometry;
    const struct anchor anchor = anchor_of(m, o->route);
    if (rates->ewc <= 0.0 || !(anchor.header->outcomes >= 1.0)) return;
    float *head = route_floats(m, o->route, g->route_head);
    struct task_detector *detector = model_detector(m);
    float dot;
    dot_rows(anchor.weights, 1, 0, g->hidden_dim, f->adapted, &dot);
    const double anchored = model_clip(f->scale * dot + model_route(m, o->route)->bias);
    error_add(&detector->anchor_error, o->quality - anchored);
    error_add(&detector->head_error, o->quality - e->linear);
    const uint64_t own = model_route(m, o->route)->outcomes - *begun_of(m, o->route).outcomes;
    const double strength = rates->ewc * trust(detector) / ((double)own + 1.0);
    pull_to_anchor(head, route_floats(m, o->route, g->route_squared), anchor.weights,
                   anchor.information, g->hidden_dim, (float)(rates->head * strength));
}
