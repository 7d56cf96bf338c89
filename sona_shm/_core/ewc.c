/* See ewc.h. */
#include "ewc.h"

#include <math.h>

#include "kernels.h"
#include "settings.h"

struct anchor {
    struct anchor_header *header;
    float *weights, *information, *begun;
};

static struct anchor anchor_of(const struct model *m, uint64_t route)
{
    const struct geometry *g = m->geometry;
    uint8_t *part = m->slow + g->slow_anchors + route * g->anchor_stride;
    float *rows = (float *)(part + sizeof(struct anchor_header));
    const struct anchor anchor = {(struct anchor_header *)part, rows, rows + g->hidden_dim,
                                  rows + 2 * g->hidden_dim};
    return anchor;
}

void anchors_consolidate(const struct model *m)
{
    const struct geometry *g = m->geometry;
    for (uint64_t k = 0; k < model_routes(m); k++) {
        const struct anchor anchor = anchor_of(m, k);
        const uint64_t outcomes = model_route(m, k)->outcomes;
        consolidate(anchor.weights, anchor.information, anchor.begun,
                    route_floats(m, k, g->route_head), route_floats(m, k, g->route_squared),
                    g->hidden_dim, (float)ANCHOR_KEPT);
        anchor.header->outcomes = ANCHOR_KEPT * anchor.header->outcomes +
                                  (double)(outcomes - anchor.header->begun);
        anchor.header->begun = outcomes;
    }
    struct task_detector *detector = model_detector(m);
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
    const double strength = rates->ewc * trust(detector) / anchor.header->outcomes;
    pull_to_anchor(head, route_floats(m, o->route, g->route_squared), anchor.weights,
                   anchor.information, g->hidden_dim, (float)(rates->head * strength));
}
