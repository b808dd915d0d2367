// CHECK(condition, what was tried...): on failure print both and go on; failures() is main's exit status.
#pragma once

#include <iostream>

inline int &failure_count() {
  static int count = 0;
  return count;
}

template <typename... Words>
void check(bool holds, const char *condition, int line, const Words &...words) {
  if (holds) return;
  if (++failure_count() > 20) return;
  std::cerr << "line " << line << ": " << condition;
  ((std::cerr << ' ' << words), ...);
  std::cerr << std::endl;
}

#define CHECK(condition, ...) check((condition), #condition, __LINE__, ##__VA_ARGS__)

#define CHECK_THROWS(expression, type)                               \
  do {                                                               \
    bool thrown = false;                                             \
    try {                                                            \
      (void)(expression);                                            \
    } catch (const type &) {                                         \
      thrown = true;                                                 \
    }                                                                \
    check(thrown, #expression " throws " #type, __LINE__);           \
  } while (false)

inline int failures() {
  if (failure_count() == 0) return 0;
  std::cerr << failure_count() << " checks failed" << std::endl;
  return 1;
}
