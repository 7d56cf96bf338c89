/* Changes of the routes while workers run: see struct route_command. */
#include <math.h>
#include <string.h>

#include "learner.h"

#define LARGEST_PRICE 1e6

static int is_sound(const struct learner *l, const struct route_command *c)
{
    return c->name[0] && !c->name[NAME_BYTES - 1] && c->cost >= 0.0 && isfinite(c->cost) &&
           c->price >= 0.0 && c->price <= LARGEST_PRICE &&
           (isnan(c->expected) || (c->expected >= 0.0 && c->expected <= 1.0)) &&
           (c->like == NO_ROUTE || c->like < model_routes(&l->model));
}

static void price_route(struct route_state *state, const struct route_command *c)
{
    state->cost = c->cost;
    state->price = c->price;
}

/* A route that was retired comes back with what was learned about it. */
static int add_route(const struct learner *l, const struct route_command *c, uint32_t known)
{
    if (known != NO_ROUTE) {
        struct route_state *state = model_route(&l->model, known);
        if (state->flags & ROUTE_ACTIVE) return 0;
        state->flags |= ROUTE_ACTIVE;
        price_route(state, c);
        return 1;
    }
    const int others_serve = learner_header(l)->counters[COUNTER_outcomes_learned] > 0;
    const struct route_start start = {.name = c->name,
                                      .cost = c->cost,
                                      .price = c->price,
                                      .expected = c->expected,
                                      .like = c->like,
                                      .flags = ROUTE_ACTIVE | (others_serve ? ROUTE_ARRIVED : 0)};
    return model_add_route(&l->model, &start);
}

static int change_route(const struct learner *l, const struct route_command *c)
{
    const uint32_t route = model_find_route(&l->model, c->name);
    if (c->operation == ROUTE_ADD) return add_route(l, c, route);
    if (route == NO_ROUTE) return 0;
    struct route_state *state = model_route(&l->model, route);
    if (c->operation == ROUTE_RETIRE) {
        if (!(state->flags & ROUTE_ACTIVE)) return 0;
        state->flags &= ~(uint64_t)ROUTE_ACTIVE;
        return 1;
    }
    if (c->operation != ROUTE_PRICE) return 0;
    price_route(state, c);
    return 1;
}

enum lesson learn_route(struct learner *l, const struct record_header *record, const uint8_t *body)
{
    struct route_command command;
    if (record->length - sizeof *record < sizeof command) return LESSON_CORRUPT;
    memcpy(&command, body, sizeof command);
    if (!is_sound(l, &command) || !change_route(l, &command)) {
        learner_count(l, COUNTER_routes_refused, 1);
        return LESSON_REJECTED;
    }
    learner_count(l, COUNTER_routes_changed, 1);
    return LESSON_APPLIED;
}
