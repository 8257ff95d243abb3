#pragma once

// Whether this build has a sanitizer in it: g++ defines a macro, clang answers a question.

#if defined(__SANITIZE_ADDRESS__)
#define WAYLEAVE_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WAYLEAVE_ADDRESS_SANITIZER 1
#endif
#endif

#if defined(__SANITIZE_THREAD__)
#define WAYLEAVE_THREAD_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define WAYLEAVE_THREAD_SANITIZER 1
#endif
#endif
