// Just enough JSON for the driver: a tree of values that is never freed, and a writer.
#ifndef JSON_H
#define JSON_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct json json;
struct json {
  char type;        // '{' '[' '"' '0' 't' 'f' 'n'
  char *text;       // of a string, terminated
  double number;    // of a number
  char *name;       // of a member of an object
  json *first, *next;
};

static inline void json_space(const char **at) {
  while (**at == ' ' || **at == '\n' || **at == '\t' || **at == '\r') ++*at;
}

static inline char *json_string(const char **at) {
  char *out = malloc(strlen(*at) + 1), *end = out;
  for (++*at; **at && **at != '"'; ++*at) {
    if (**at != '\\') {
      *end++ = **at;
      continue;
    }
    ++*at;
    switch (**at) {
      case 'n': *end++ = '\n'; break;
      case 't': *end++ = '\t'; break;
      case 'r': *end++ = '\r'; break;
      case 'u': {  // the corpus is ASCII
        unsigned code = 0;
        sscanf(*at + 1, "%4x", &code);
        *end++ = (char)code;
        *at += 4;
        break;
      }
      default: *end++ = **at;
    }
  }
  if (**at) ++*at;
  *end = 0;
  return out;
}

static inline json *json_value(const char **at);

static inline void json_members(json *value, const char **at) {
  json **last = &value->first;
  for (++*at, json_space(at); **at && **at != '}' && **at != ']'; json_space(at)) {
    char *name = NULL;
    if (value->type == '{') {
      name = json_string(at);
      json_space(at);
      ++*at;  // ':'
    }
    *last = json_value(at);
    (*last)->name = name;
    last = &(*last)->next;
    json_space(at);
    if (**at == ',') ++*at;
  }
  if (**at) ++*at;
}

static inline json *json_value(const char **at) {
  json *value = calloc(1, sizeof(json));
  json_space(at);
  value->type = **at;
  if (value->type == '{' || value->type == '[') {
    json_members(value, at);
  } else if (value->type == '"') {
    value->text = json_string(at);
  } else if (value->type == 't' || value->type == 'f' || value->type == 'n') {
    *at += value->type == 'f' ? 5 : 4;
  } else {
    char *end;
    value->type = '0';
    value->number = strtod(*at, &end);
    *at = end > *at ? end : *at + 1;
  }
  return value;
}

// The member of that name; NULL when it is absent or null.
static inline json *json_get(json *object, const char *name) {
  for (json *member = object ? object->first : NULL; member; member = member->next)
    if (member->name && !strcmp(member->name, name)) return member->type == 'n' ? NULL : member;
  return NULL;
}

static inline const char *json_text(json *object, const char *name) {
  json *member = json_get(object, name);
  return member && member->text ? member->text : "";
}

static inline void json_print(FILE *out, const char *text, size_t length) {
  fputc('"', out);
  for (size_t i = 0; i < length; i++) {
    unsigned char c = (unsigned char)text[i];
    if (c == '"' || c == '\\') {
      fprintf(out, "\\%c", c);
    } else if (c < ' ' || c > '~') {
      fprintf(out, "\\u%04x", c);
    } else {
      fputc(c, out);
    }
  }
  fputc('"', out);
}

#endif
