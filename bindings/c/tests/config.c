// Configurations: good ones, refused ones, and what the refusal tells.
#include "harness.h"

static void a_good_document_is_accepted_without_a_mesh(void) {
  mesh_config *config = NULL;
  MUST(mesh_config_parse(bytes_of("version: 1\n"), MESH_STR("good.yaml"), &config, &err));
  CHECK(config != NULL);
  CHECK(mesh_live_handles(MESH_HANDLE_CONFIG) == 1);
  mesh_config_free(config);
}

static void a_refused_document_tells_file_line_and_path(void) {
  mesh_config *config = (mesh_config *)0x1;
  mesh_error *error = NULL;
  const char *text = "version: 1\nclusters:\n  - name: a\n    endpoints: [ { address: \"127.0.0.1:1\" } ]\n    balancr: x\n";
  CHECK(mesh_config_parse(bytes_of(text), MESH_STR("bad.yaml"), &config, &error) == MESH_E_CONFIG);
  CHECK(config == (mesh_config *)0x1);
  CHECK(same(mesh_error_name(error), "config"));
  CHECK(same(mesh_error_detail(error, MESH_STR("file")), "bad.yaml"));
  CHECK(same(mesh_error_detail(error, MESH_STR("line")), "5"));
  CHECK(strstr(mesh_error_detail(error, MESH_STR("path")).ptr, "clusters[0]") != NULL);
  CHECK(strstr(mesh_error_message(error).ptr, "balancr") != NULL);
  CHECK(strstr(mesh_error_json(error).ptr, "\"diagnostics\":[{") != NULL);
  CHECK(strstr(mesh_error_json(error).ptr, "\"line\":5") != NULL);
  CHECK(mesh_error_detail(error, MESH_STR("no such key")).len == 0);
  mesh_error_free(error);
}

static void every_detail_of_an_error_can_be_listed(void) {
  mesh_error *error = NULL;
  mesh_config *config = NULL;
  CHECK(mesh_config_parse(bytes_of("version: 9\n"), MESH_STR("v.yaml"), &config, &error) == MESH_E_CONFIG);
  size_t count = mesh_error_detail_count(error);
  CHECK(count >= 3);
  for (size_t i = 0; i < count; i++) {
    mesh_str key, value;
    MUST(mesh_error_detail_at(error, i, &key, &value, &err));
    CHECK(same(mesh_error_detail(error, key), value.ptr));
  }
  mesh_str key, value;
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_error_detail_at(error, count, &key, &value, &err));
  mesh_error_free(error);
}

static void text_that_is_not_utf8_is_refused(void) {
  mesh_config *config = NULL;
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_config_parse(MESH_BYTES("\xff\xfe", 2), MESH_STR("x"), &config, &err));
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_config_parse(bytes_of("version: 1\n"), MESH_STR("\xff"), &config, &err));
  MUST_FAIL(MESH_E_INVALID_ARGUMENT, mesh_config_parse(MESH_BYTES(NULL, 5), MESH_STR("x"), &config, &err));
}

static void files_are_read_and_missing_ones_say_so(void) {
  char path[] = "/tmp/mesh-test-XXXXXX";
  int fd = mkstemp(path);
  FILE *file = fdopen(fd, "w");
  fputs("version: 1\n", file);
  fclose(file);
  mesh_config *config = NULL;
  MUST(mesh_config_load_file(mesh_strz(path), &config, &err));
  mesh *m = NULL;
  MUST(mesh_open(NULL, config, &m, &err));
  mesh_free(m);
  mesh_config_free(config);
  remove(path);
  mesh_error *error = NULL;
  CHECK(mesh_config_load_file(mesh_strz(path), &config, &error) == MESH_E_CONFIG_IO);
  CHECK(same(mesh_error_detail(error, MESH_STR("os_errno")), "2"));
  mesh_error_free(error);
}

static void an_error_need_not_be_asked_for(void) {
  mesh_config *config = NULL;
  CHECK(mesh_config_parse(bytes_of("version: 9\n"), MESH_STR("v"), &config, NULL) == MESH_E_CONFIG);
  CHECK(mesh_live_handles(MESH_HANDLE_ERROR) == 0);
}

int main(void) {
  a_good_document_is_accepted_without_a_mesh();
  a_refused_document_tells_file_line_and_path();
  every_detail_of_an_error_can_be_listed();
  text_that_is_not_utf8_is_refused();
  files_are_read_and_missing_ones_say_so();
  an_error_need_not_be_asked_for();
  return report("config");
}
