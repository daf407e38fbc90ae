// A test program: CHECK facts, then `return report("name");`.
#ifndef HARNESS_H
#define HARNESS_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mesh.h"

static int passed_count;
static int failed_count;

static inline int check(int fact, const char *what, const char *file, int line) {
  // Several threads check: the counters only have to be right in the end.
  if (fact) {
    __atomic_add_fetch(&passed_count, 1, __ATOMIC_RELAXED);
  } else {
    __atomic_add_fetch(&failed_count, 1, __ATOMIC_RELAXED);
    fprintf(stderr, "%s:%d: not true: %s\n", file, line, what);
  }
  return fact;
}

#define CHECK(fact) check((fact), #fact, __FILE__, __LINE__)

// The call must succeed; without success there is no point in going on.
#define MUST(call)                                                                                   \
  do {                                                                                               \
    mesh_error *err = NULL;                                                                          \
    mesh_code code = (call);                                                                         \
    if (!CHECK(code == MESH_OK)) {                                                                   \
      fprintf(stderr, "%s:%d: %s: %d %s\n", __FILE__, __LINE__, #call, code, mesh_error_json(err).ptr); \
      exit(1);                                                                                       \
    }                                                                                                \
  } while (0)

// The call must fail with that code and say so in its error object.
#define MUST_FAIL(expected, call)                                                                    \
  do {                                                                                               \
    mesh_error *err = NULL;                                                                          \
    mesh_code code = (call);                                                                         \
    if (!CHECK(code == (expected)))                                                                  \
      fprintf(stderr, "%s:%d: %s: got %d %s\n", __FILE__, __LINE__, #call, code, mesh_error_json(err).ptr); \
    CHECK(mesh_error_code(err) == code);                                                             \
    CHECK(mesh_error_message(err).len > 0);                                                          \
    mesh_error_free(err);                                                                            \
  } while (0)

static inline int report(const char *name) {
  CHECK(mesh_live_handles(MESH_HANDLE_ANY) == 0);
  printf("%-10s %d passed, %d failed\n", name, passed_count, failed_count);
  return failed_count != 0;
}

static inline int same(mesh_str text, const char *expected) {
  return text.len == strlen(expected) && memcmp(text.ptr, expected, text.len) == 0 && text.ptr[text.len] == 0;
}

static inline int same_bytes(mesh_bytes bytes, const char *expected) {
  return bytes.len == strlen(expected) && memcmp(bytes.ptr, expected, bytes.len) == 0;
}

static inline mesh_bytes bytes_of(const char *text) { return MESH_BYTES(text, strlen(text)); }

#endif
