/* Lists of buffers, seen from some byte on. */
#include <string.h>

#include "backend/block/file.h"

unsigned view_slice(struct view v, u64 length, struct iovec *out, unsigned max, u64 *covered)
{
	unsigned n = 0;
	u64 sum = 0;

	for (unsigned i = 0; i < v.n && n < max && sum < length; i++) {
		size_t len = v.iov[i].iov_len;

		if (v.skip >= len) {
			v.skip -= len;
			continue;
		}
		len = MIN(len - v.skip, length - sum);
		if (!len)
			continue;
		out[n++] = (struct iovec){ (char *)v.iov[i].iov_base + v.skip, len };
		sum += len;
		v.skip = 0;
	}
	*covered = sum;
	return n;
}

void view_zero(struct view v, u64 length)
{
	struct iovec part;
	u64 n;

	for (; length && view_slice(v, length, &part, 1, &n); length -= n, v.skip += n)
		memset(part.iov_base, 0, n);
}

void view_put(struct view v, const void *from, size_t length)
{
	struct iovec part;
	u64 n;

	for (; length && view_slice(v, length, &part, 1, &n); length -= n, v.skip += n, from = (const char *)from + n)
		memcpy(part.iov_base, from, n);
}

void view_get(struct view v, void *to, size_t length)
{
	struct iovec part;
	u64 n;

	for (; length && view_slice(v, length, &part, 1, &n); length -= n, v.skip += n, to = (char *)to + n)
		memcpy(to, part.iov_base, n);
}
