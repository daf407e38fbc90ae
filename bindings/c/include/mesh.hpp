// libmesh for C++17: handles that free themselves, and results without exceptions.
//
//   auto config = libmesh::config::load("mesh.yaml");
//   if (!config) return config.error().print(), 1;
//   auto mesh = libmesh::mesh::open(*config);
//   auto response = mesh->get("http://reviews/reviews/0");
//   if (response) std::cout << response->status() << *response->read_all();
//
// The namespace is `libmesh`, because `mesh` is a type of the C interface.
#ifndef MESH_HPP
#define MESH_HPP

#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "mesh.h"

namespace libmesh {

template <auto Free>
struct freer {
  template <class T>
  void operator()(T *handle) const noexcept {
    Free(handle);
  }
};

template <class T, auto Free>
using handle = std::unique_ptr<T, freer<Free>>;

inline mesh_str in(std::string_view text) { return {text.data(), text.size()}; }
inline mesh_bytes in_bytes(std::string_view bytes) { return MESH_BYTES(bytes.data(), bytes.size()); }
inline std::string_view out(mesh_str text) { return {text.ptr, text.len}; }
inline std::string_view out(mesh_bytes bytes) {
  return {reinterpret_cast<const char *>(bytes.ptr), bytes.len};
}

// Why a call failed.
class error {
 public:
  explicit error(mesh_error *raw) : raw_(raw) {}
  mesh_code code() const { return mesh_error_code(raw_.get()); }
  std::string_view name() const { return out(mesh_error_name(raw_.get())); }
  std::string_view message() const { return out(mesh_error_message(raw_.get())); }
  std::string_view json() const { return out(mesh_error_json(raw_.get())); }
  std::string_view detail(std::string_view key) const { return out(mesh_error_detail(raw_.get(), in(key))); }
  bool retriable() const { return mesh_error_flags(raw_.get()) & MESH_ERR_RETRIABLE; }
  bool not_sent() const { return mesh_error_flags(raw_.get()) & MESH_ERR_NOT_SENT; }
  void print(std::FILE *to = stderr) const {
    std::fprintf(to, "%s: %s\n", mesh_error_name(raw_.get()).ptr, mesh_error_message(raw_.get()).ptr);
  }

 private:
  handle<mesh_error, mesh_error_free> raw_;
};

// A value or an error.
template <class T>
class result {
 public:
  result(T value) : state_(std::move(value)) {}
  result(libmesh::error failed) : state_(std::move(failed)) {}
  explicit operator bool() const { return std::holds_alternative<T>(state_); }
  T &operator*() { return std::get<T>(state_); }
  T *operator->() { return &std::get<T>(state_); }
  libmesh::error &error() { return std::get<libmesh::error>(state_); }

 private:
  std::variant<T, libmesh::error> state_;
};

using buffer = handle<mesh_buf, mesh_buf_free>;
inline std::string_view view(const buffer &bytes) { return out(mesh_buf_bytes(bytes.get())); }

class config {
 public:
  static result<config> load(std::string_view path) {
    mesh_config *raw = nullptr;
    mesh_error *err = nullptr;
    if (mesh_config_load_file(in(path), &raw, &err)) return libmesh::error(err);
    return config(raw);
  }
  static result<config> parse(std::string_view text, std::string_view origin = "config") {
    mesh_config *raw = nullptr;
    mesh_error *err = nullptr;
    if (mesh_config_parse(in_bytes(text), in(origin), &raw, &err)) return libmesh::error(err);
    return config(raw);
  }
  const mesh_config *raw() const { return raw_.get(); }

 private:
  explicit config(mesh_config *raw) : raw_(raw) {}
  handle<mesh_config, mesh_config_free> raw_;
};

class response {
 public:
  explicit response(mesh_response *raw) : raw_(raw) {}
  int status() const { return mesh_response_status(raw_.get()); }
  std::optional<std::string_view> header(std::string_view name, std::size_t nth = 0) const {
    mesh_bytes value = mesh_response_header(raw_.get(), in(name), nth);
    if (!value.ptr) return std::nullopt;
    return out(value);
  }
  // The next chunk; a null buffer at the end.
  result<buffer> read() {
    mesh_buf *chunk = nullptr;
    mesh_error *err = nullptr;
    if (mesh_response_read(raw_.get(), &chunk, &err)) return libmesh::error(err);
    return buffer(chunk);
  }
  result<std::string> read_all() {
    std::string all;
    for (;;) {
      auto chunk = read();
      if (!chunk) return std::move(chunk.error());
      if (!*chunk) return all;
      all += view(*chunk);
    }
  }
  mesh_call_info info() const {
    mesh_call_info info = MESH_INIT(mesh_call_info);
    mesh_response_info(raw_.get(), &info, nullptr);
    return info;
  }
  const mesh_response *raw() const { return raw_.get(); }

 private:
  handle<mesh_response, mesh_response_free> raw_;
};

class request {
 public:
  explicit request(mesh_request *raw) : raw_(raw) {}
  // False: not a header (see mesh_request_header_add).
  bool header(std::string_view name, std::string_view value) {
    return mesh_request_header_add(raw_.get(), in(name), in_bytes(value), nullptr) == MESH_OK;
  }
  bool body(std::string_view bytes) { return mesh_request_body_copy(raw_.get(), in_bytes(bytes), nullptr) == MESH_OK; }
  bool timeout_ns(std::int64_t timeout) { return mesh_request_set_timeout(raw_.get(), timeout, nullptr) == MESH_OK; }
  void cancel() { mesh_request_cancel(raw_.get()); }
  const mesh_request *raw() const { return raw_.get(); }

 private:
  handle<mesh_request, mesh_request_free> raw_;
};

class mesh {
 public:
  static result<mesh> open(const config &config, mesh_options options = MESH_OPTIONS_INIT) {
    ::mesh *raw = nullptr;
    mesh_error *err = nullptr;
    if (mesh_open(&options, config.raw(), &raw, &err)) return libmesh::error(err);
    return mesh(raw);
  }
  result<request> new_request(std::string_view method, std::string_view target) {
    mesh_request *raw = nullptr;
    mesh_error *err = nullptr;
    if (mesh_request_new(raw_.get(), in(method), in(target), &raw, &err)) return libmesh::error(err);
    return request(raw);
  }
  result<response> call(const request &request) {
    mesh_response *raw = nullptr;
    mesh_error *err = nullptr;
    if (mesh_call(raw_.get(), request.raw(), &raw, &err)) return libmesh::error(err);
    return response(raw);
  }
  result<response> get(std::string_view target) {
    auto made = new_request("GET", target);
    if (!made) return std::move(made.error());
    return call(*made);
  }
  void close(std::int64_t timeout_ns = 1000000000) { mesh_close(raw_.get(), timeout_ns, nullptr); }
  const ::mesh *raw() const { return raw_.get(); }

 private:
  explicit mesh(::mesh *raw) : raw_(raw) {}
  handle<::mesh, mesh_free> raw_;
};

}  // namespace libmesh

#endif
