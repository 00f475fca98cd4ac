/* Routines for repeated string instructions, see rep.c. */
#ifndef ECTYPE_ENGINE_DBT_REP_H
#define ECTYPE_ENGINE_DBT_REP_H

#include "engine/dbt/dbt.h"
#include "engine/dbt/emit.h"

/* Copy them to e->p and fill sh->rep. */
void dbt_make_rep(struct dbt_shared *sh, struct emit *e);

#endif
