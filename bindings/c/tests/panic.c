// A panic inside any function becomes MESH_E_INTERNAL, or a harmless value, and the program goes on.
// Needs a library built with the feature `panic-injection`.
#define MESH_PANIC_INJECTION
#include "functions.h"
#include "world.h"

static int32_t answer(void *userdata, mesh_inbound *inbound) {
  (void)userdata;
  MUST(mesh_inbound_respond(inbound, 200, MESH_NONE, MESH_NONE, &err));
  return MESH_HANDLED;
}

int main(void) {
  world w;
  world_open(&w, answer, NULL, 1);
  char body[8];
  CHECK(get(&w, "http://echo/", body, sizeof(body)) == 200);

  if (!freopen("/dev/null", "w", stderr)) return 1;  // each panic says so there
#define FALLIBLE(function, arguments)                                                   \
  do {                                                                                  \
    mesh_error *err = NULL;                                                             \
    mesh_test_panic_in(#function);                                                      \
    mesh_code code = function arguments;                                                \
    mesh_test_panic_in(NULL);                                                           \
    if (!CHECK(code == MESH_E_INTERNAL)) printf("%s: %d\n", #function, code);           \
    CHECK(same(mesh_error_name(err), "internal"));                                      \
    CHECK(strstr(mesh_error_message(err).ptr, #function " panicked: injected") != NULL); \
    mesh_error_free(err);                                                               \
  } while (0);
#define PLAIN(function, arguments) \
  mesh_test_panic_in(#function);   \
  (void)function arguments;        \
  mesh_test_panic_in(NULL);        \
  CHECK(1);
  ALL_FUNCTIONS

  // The mesh that was open all the time still works.
  CHECK(get(&w, "http://echo/", body, sizeof(body)) == 200);
  world_close(&w);
  return report("panic");
}
