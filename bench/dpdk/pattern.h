/* The C twin of netbench's pattern: 64-bit words `seq + i * STEP`, little endian.
 *
 * Vectors of 64 bytes; the compiler splits them where the processor has narrower ones. A tail below
 * 64 bytes is done word by word, and below 8 bytes byte by byte.
 */
#ifndef NETBENCH_PATTERN_H
#define NETBENCH_PATTERN_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define PATTERN_STEP 0x9E3779B97F4A7C15ull

typedef uint64_t pattern_vector __attribute__((vector_size(64)));
typedef uint64_t pattern_memory __attribute__((vector_size(64), aligned(1), may_alias));

#define PATTERN_LANES \
	((pattern_vector){ 0, PATTERN_STEP, PATTERN_STEP * 2, PATTERN_STEP * 3, PATTERN_STEP * 4, \
		PATTERN_STEP * 5, PATTERN_STEP * 6, PATTERN_STEP * 7 })

/* Writes packet `seq` over `size` bytes. */
static inline void
pattern_write(uint8_t *bytes, uint32_t size, uint64_t seq)
{
	pattern_vector value = PATTERN_LANES + seq;
	uint32_t at = 0;

	for (; at + 64 <= size; at += 64) {
		*(pattern_memory *)(bytes + at) = value;
		value += PATTERN_STEP * 8;
	}
	seq += at / 8 * PATTERN_STEP;
	for (; at < size; at += 8) {
		memcpy(bytes + at, &seq, size - at < 8 ? size - at : 8);
		seq += PATTERN_STEP;
	}
}

/* Whether `size` bytes are packet `seq`. */
static inline bool
pattern_is(const uint8_t *bytes, uint32_t size, uint64_t seq)
{
	pattern_vector value = PATTERN_LANES + seq, difference = { 0 };
	uint64_t any = 0;
	uint32_t at = 0;

	for (; at + 64 <= size; at += 64) {
		difference |= *(const pattern_memory *)(bytes + at) ^ value;
		value += PATTERN_STEP * 8;
	}
	seq += at / 8 * PATTERN_STEP;
	for (; at < size; at += 8) {
		uint32_t length = size - at < 8 ? size - at : 8;
		uint64_t word = seq;

		memcpy(&word, bytes + at, length);
		any |= word ^ seq;
		seq += PATTERN_STEP;
	}
	for (int i = 0; i < 8; i++)
		any |= difference[i];
	return any == 0;
}

/* Whether `size` bytes are a packet at all: the one in `*seq`, else the one that it says it is. */
static inline bool
pattern_check(const uint8_t *bytes, uint32_t size, uint64_t *seq)
{
	if (__builtin_expect(pattern_is(bytes, size, *seq), 1))
		return true;
	memcpy(seq, bytes, sizeof(*seq));
	return pattern_is(bytes, size, *seq);
}

#endif
