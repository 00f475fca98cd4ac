/* src/ctl/openapi.json, built in. */
#ifndef ECTYPE_CTL_OPENAPI_H
#define ECTYPE_CTL_OPENAPI_H

#include <stddef.h>

extern const char openapi_json[];
extern const size_t openapi_json_len;

#endif
