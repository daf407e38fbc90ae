// Every exported function once, with NULL for every pointer. tests/abi.sh checks that none is missing.
// FALLIBLE(function, arguments): returns mesh_code; `err` is in scope.
// PLAIN(function, arguments): cannot fail.
#define ALL_FUNCTIONS                                                                             \
  FALLIBLE(mesh_error_detail_at, (NULL, 0, NULL, NULL, &err))                                     \
  FALLIBLE(mesh_buf_slice, (NULL, 0, 0, NULL, &err))                                              \
  FALLIBLE(mesh_config_parse, (MESH_NONE, MESH_STR(""), NULL, &err))                              \
  FALLIBLE(mesh_config_load_file, (MESH_STR("/nonexistent"), NULL, &err))                         \
  FALLIBLE(mesh_open, (NULL, NULL, NULL, &err))                                                   \
  FALLIBLE(mesh_start, (NULL, &err))                                                              \
  FALLIBLE(mesh_reload, (NULL, NULL, NULL, &err))                                                 \
  FALLIBLE(mesh_status_json, (NULL, NULL, &err))                                                  \
  FALLIBLE(mesh_metrics, (NULL, 0, NULL, &err))                                                   \
  FALLIBLE(mesh_set_serving, (NULL, 0, &err))                                                     \
  FALLIBLE(mesh_drain, (NULL, 0, &err))                                                           \
  FALLIBLE(mesh_close, (NULL, 0, &err))                                                           \
  FALLIBLE(mesh_request_new, (NULL, MESH_STR("GET"), MESH_STR("http://a/"), NULL, &err))          \
  FALLIBLE(mesh_request_header_add, (NULL, MESH_STR("a"), MESH_NONE, &err))                       \
  FALLIBLE(mesh_request_headers_packed, (NULL, MESH_NONE, &err))                                  \
  FALLIBLE(mesh_request_set_timeout, (NULL, 0, &err))                                             \
  FALLIBLE(mesh_request_set_idempotent, (NULL, 0, &err))                                          \
  FALLIBLE(mesh_request_set_detached, (NULL, 0, &err))                                            \
  FALLIBLE(mesh_request_set_parent, (NULL, NULL, &err))                                           \
  FALLIBLE(mesh_request_body_copy, (NULL, MESH_NONE, &err))                                       \
  FALLIBLE(mesh_request_body_stream, (NULL, -1, NULL, &err))                                      \
  FALLIBLE(mesh_call, (NULL, NULL, NULL, &err))                                                   \
  FALLIBLE(mesh_body_write, (NULL, MESH_NONE, &err))                                              \
  FALLIBLE(mesh_body_end, (NULL, MESH_NONE, &err))                                                \
  FALLIBLE(mesh_response_header_at, (NULL, 0, NULL, NULL, &err))                                  \
  FALLIBLE(mesh_response_read, (NULL, NULL, &err))                                                \
  FALLIBLE(mesh_response_info, (NULL, NULL, &err))                                                \
  FALLIBLE(mesh_cq_new, (NULL, NULL, NULL, &err))                                                 \
  FALLIBLE(mesh_cq_exchange, (NULL, NULL, 0, 0, NULL, 0, 0, NULL, 0, &err))                       \
  FALLIBLE(mesh_cq_run, (NULL, 0, &err))                                                          \
  FALLIBLE(mesh_listen, (NULL, MESH_STR("a"), NULL, NULL, NULL, &err))                            \
  FALLIBLE(mesh_serve, (NULL, MESH_STR("a"), NULL, NULL, NULL, NULL, &err))                       \
  FALLIBLE(mesh_forward, (NULL, MESH_STR("a"), NULL, &err))                                       \
  FALLIBLE(mesh_listener_wait, (NULL, &err))                                                      \
  FALLIBLE(mesh_inbound_header_at, (NULL, 0, NULL, NULL, &err))                                   \
  FALLIBLE(mesh_inbound_read, (NULL, NULL, &err))                                                 \
  FALLIBLE(mesh_inbound_header_add, (NULL, MESH_STR("a"), MESH_NONE, &err))                       \
  FALLIBLE(mesh_inbound_respond, (NULL, 200, MESH_NONE, MESH_NONE, &err))                         \
  FALLIBLE(mesh_inbound_respond_stream, (NULL, 200, MESH_NONE, -1, NULL, &err))                   \
  FALLIBLE(mesh_inbound_activate, (NULL, &err))                                                   \
  FALLIBLE(mesh_inbound_deactivate, (NULL, &err))                                                 \
  FALLIBLE(mesh_inbound_check_open, (NULL, MESH_STR("a"), NULL, &err))                            \
  FALLIBLE(mesh_inbound_begin, (NULL, NULL, NULL, 0, NULL, NULL, NULL, &err))                     \
  FALLIBLE(mesh_body_wanted_give, (NULL, MESH_NONE, 0, NULL, 0, NULL, NULL, &err))                \
  FALLIBLE(mesh_inbound_head, (NULL, 200, MESH_NONE, NULL, &err))                                 \
  FALLIBLE(mesh_inbound_end, (NULL, 0, 0, MESH_NONE, NULL, &err))                                 \
  FALLIBLE(mesh_inbound_fail, (NULL, 0, 0, MESH_STR(""), &err))                                   \
  FALLIBLE(mesh_guard_open, (NULL, MESH_STR("a"), NULL, &err))                                    \
  FALLIBLE(mesh_guard_begin, (NULL, NULL, NULL, &err))                                            \
  FALLIBLE(mesh_guard_next, (NULL, 0, -1, NULL, &err))                                            \
  FALLIBLE(mesh_load_report_set, (NULL, MESH_STR("utilization"), 0.5, &err))                       \
  PLAIN(mesh_strz, (NULL))                                                                        \
  PLAIN(mesh_live_handles, (0))                                                                   \
  PLAIN(mesh_error_code, (NULL))                                                                  \
  PLAIN(mesh_error_flags, (NULL))                                                                 \
  PLAIN(mesh_error_name, (NULL))                                                                  \
  PLAIN(mesh_error_message, (NULL))                                                               \
  PLAIN(mesh_error_detail, (NULL, MESH_STR("a")))                                                 \
  PLAIN(mesh_error_detail_count, (NULL))                                                          \
  PLAIN(mesh_error_json, (NULL))                                                                  \
  PLAIN(mesh_error_free, (NULL))                                                                  \
  PLAIN(mesh_buf_bytes, (NULL))                                                                   \
  PLAIN(mesh_buf_free, (NULL))                                                                    \
  PLAIN(mesh_config_free, (NULL))                                                                 \
  PLAIN(mesh_abi_version, ())                                                                     \
  PLAIN(mesh_version, ())                                                                         \
  PLAIN(mesh_free, (NULL))                                                                        \
  PLAIN(mesh_request_cancel, (NULL))                                                              \
  PLAIN(mesh_request_free, (NULL))                                                                \
  PLAIN(mesh_body_free, (NULL))                                                                   \
  PLAIN(mesh_response_status, (NULL))                                                             \
  PLAIN(mesh_response_header, (NULL, MESH_STR("a"), 0))                                           \
  PLAIN(mesh_response_header_count, (NULL))                                                       \
  PLAIN(mesh_response_body, (NULL))                                                               \
  PLAIN(mesh_response_headers_packed, (NULL))                                                     \
  PLAIN(mesh_response_trailers_packed, (NULL))                                                    \
  PLAIN(mesh_response_cancel, (NULL))                                                             \
  PLAIN(mesh_response_free, (NULL))                                                               \
  PLAIN(mesh_cq_fd, (NULL))                                                                       \
  PLAIN(mesh_cq_wake, (NULL))                                                                     \
  PLAIN(mesh_cq_stop, (NULL))                                                                     \
  PLAIN(mesh_cq_free, (NULL))                                                                     \
  PLAIN(mesh_listener_address, (NULL))                                                            \
  PLAIN(mesh_listener_free, (NULL))                                                               \
  PLAIN(mesh_inbound_id, (NULL))                                                                  \
  PLAIN(mesh_inbound_method, (NULL))                                                              \
  PLAIN(mesh_inbound_path, (NULL))                                                                \
  PLAIN(mesh_inbound_authority, (NULL))                                                           \
  PLAIN(mesh_inbound_peer_id, (NULL))                                                             \
  PLAIN(mesh_inbound_claims_json, (NULL))                                                         \
  PLAIN(mesh_inbound_trace_id, (NULL))                                                            \
  PLAIN(mesh_inbound_remote_address, (NULL))                                                      \
  PLAIN(mesh_inbound_local_address, (NULL))                                                       \
  PLAIN(mesh_inbound_remaining_ns, (NULL))                                                        \
  PLAIN(mesh_inbound_header, (NULL, MESH_STR("a"), 0))                                            \
  PLAIN(mesh_inbound_header_count, (NULL))                                                        \
  PLAIN(mesh_inbound_headers_packed, (NULL))                                                      \
  PLAIN(mesh_inbound_trailers_packed, (NULL))                                                     \
  PLAIN(mesh_inbound_check_free, (NULL))                                                          \
  PLAIN(mesh_inbound_check_body_limit, (NULL))                                                    \
  PLAIN(mesh_body_wanted_limit, (NULL))                                                           \
  PLAIN(mesh_body_wanted_remaining_ns, (NULL))                                                    \
  PLAIN(mesh_body_wanted_free, (NULL))                                                            \
  PLAIN(mesh_inbound_free, (NULL))                                                                \
  PLAIN(mesh_guard_free, (NULL))                                                                  \
  PLAIN(mesh_guard_outcome_of, (MESH_STR("reset"), 0))                                            \
  PLAIN(mesh_guard_end, (NULL))                                                                   \
  PLAIN(mesh_after_fork_child, ())
