/* The Python type of the learner, which more than one file implements. */
#ifndef SONA_LEARNER_TYPE_H
#define SONA_LEARNER_TYPE_H

#include "python.h"

#include "learner.h"

typedef struct {
    PyObject_HEAD
    Py_buffer control, ring, weights; /* .obj is NULL when released */
    struct learner learner;
    void *memory;
    PyObject *reward; /* a callable, or NULL */
    int draining;     /* the GIL is released while this is set */
    int refitting;    /* the same, in threads that prepare refits: how many */
} Learner;

/* Whether its segments may be used; raises otherwise. */
int learner_open(const Learner *self);

/* ---- refit_type.c ---- */

PyObject *learner_refit_rows(Learner *self, PyObject *unused);
PyObject *learner_prepare_refit(Learner *self, PyObject *args);
PyObject *learner_catch_up_refit(Learner *self, PyObject *args);
PyObject *learner_install_refit(Learner *self, PyObject *capsule);
PyObject *learner_end_scheduled_refit(Learner *self, PyObject *installed);
PyObject *learner_refit_may_begin(Learner *self, void *unused);
PyObject *learner_refit_is_due(Learner *self, void *unused);
PyObject *learner_refits(Learner *self, void *unused);

#endif
