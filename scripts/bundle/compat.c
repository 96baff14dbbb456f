// What a bundled library asks of a glibc newer than those that the bundle is for: libevent's arc4random (glibc 2.36),
// which it uses for DNS queries and rate limits alone. Where glibc has its own, the loader takes that.
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/types.h>

void arc4random_buf(void* buffer, size_t bytes) {
  unsigned char* to = buffer;
  while (bytes > 0) {
    // At most 256 bytes a call are never cut short by a signal.
    ssize_t got = getrandom(to, bytes < 256 ? bytes : 256, 0);
    if (got < 0) abort();
    to += got;
    bytes -= (size_t)got;
  }
}

uint32_t arc4random(void) {
  uint32_t value;
  arc4random_buf(&value, sizeof value);
  return value;
}
