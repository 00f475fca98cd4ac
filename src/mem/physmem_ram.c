/*
 * RAM as the host sees it: made, given back page by page, mapped from a file.
 *
 * Shared RAM is a memfd. Private RAM is anonymous memory, which the host can
 * provide in huge pages, and parts of it may be a file's pages, copy-on-write.
 * There a page cannot just be dropped, or the file's bytes would come back: it
 * becomes anonymous again, and `filed` says which ones have.
 */
#include "mem/physmem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "mem/physmem_priv.h"

#define HUGE_PAGE (2 * MiB)
/* Mappings that files in RAM may come to: the rest of vm.max_map_count (65530) is for translation tables. */
#define FILE_PIECES_MAX 8192u

/* "512M", "4G": as one would type it. */
static void format_size(char *buf, size_t n, u64 size)
{
	if (size && size % GiB == 0)
		snprintf(buf, n, "%lluG", (unsigned long long)(size / GiB));
	else if (size && size % MiB == 0)
		snprintf(buf, n, "%lluM", (unsigned long long)(size / MiB));
	else
		snprintf(buf, n, "%llu", (unsigned long long)size);
}

static int check_host(u64 size, unsigned flags, struct error *e)
{
	const struct {
		int resource;
		const char *what;
		bool counts;
	} limit[] = {
		{ RLIMIT_AS, "the address-space limit (ulimit -v)", true },
		{ RLIMIT_FSIZE, "the file-size limit (ulimit -f), which counts for shared memory,",
		  flags & MEMORY_SHARED },
	};
	struct sysinfo si;
	struct rlimit rl;
	char name[32];

	format_size(name, sizeof(name), size);
	if (!size || size % PAGE_SIZE)
		return error_set(e, "memory %s: must be a positive multiple of 4 KiB", name);
	if (sysinfo(&si) == 0 && size / si.mem_unit > si.totalram)
		return error_set(e, "memory %s: this host has %.1f GiB; use a smaller --memory", name,
				 (double)si.totalram * si.mem_unit / (double)GiB);
	for (unsigned i = 0; i < ARRAY_SIZE(limit); i++) {
		if (limit[i].counts && getrlimit(limit[i].resource, &rl) == 0 && rl.rlim_cur != RLIM_INFINITY &&
		    size > rl.rlim_cur)
			return error_set(e, "memory %s: %s is %.1f GiB; raise it or use a smaller --memory", name,
					 limit[i].what, (double)rl.rlim_cur / (double)GiB);
	}
	return 0;
}

/* ---- making it ---- */

/* Not in core dumps, nor in a process that is forked: its copy would cost a page for each that is written here. What
 * a host lacks of this it does without. */
static void advise(const struct memory *m, void *at, u64 len)
{
	madvise(at, len, MADV_DONTDUMP);
	madvise(at, len, MADV_DONTFORK);
	if (m->flags & MEMORY_SHARED)
		return;
	madvise(at, len, MADV_HUGEPAGE);
	if (m->flags & MEMORY_MERGEABLE)
		madvise(at, len, MADV_MERGEABLE);
}

static void *map_private(const struct memory *m, void *at, u64 len)
{
	void *p = mmap(at, len, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (at ? MAP_FIXED : 0), -1, 0);

	if (p != MAP_FAILED)
		advise(m, p, len);
	return p;
}

void *memory_map_host_ram(const struct memory *m, void *at)
{
	void *p;

	if (!(m->flags & MEMORY_SHARED))
		return map_private(m, at, m->ram_size);
	p = mmap(at, m->ram_size, PROT_READ | PROT_WRITE, MAP_SHARED | (at ? MAP_FIXED : 0), m->fd, 0);
	if (p != MAP_FAILED)
		advise(m, p, m->ram_size);
	return p;
}

/* Its size is final: a process it is shared with could else cut it off under us. */
static bool make_shared(struct memory *m)
{
	m->fd = memfd_create("ectype-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	return m->fd >= 0 && ftruncate(m->fd, (off_t)m->ram_size) == 0 &&
	       fcntl(m->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0;
}

static void make_ram(struct memory *m, struct error *e)
{
	void *ram = MAP_FAILED;
	char name[32];
	int err;

	if (!(m->flags & MEMORY_SHARED))
		m->pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (!(m->flags & MEMORY_SHARED) || make_shared(m))
		ram = memory_place(m) ? m->ram : memory_map_host_ram(m, NULL);
	err = errno;
	if (ram != MAP_FAILED) {
		m->ram = ram;
		err = ENOMEM;
		/* One byte a frame; large callocs come untouched from the kernel. */
		m->frame_flags = calloc(m->ram_size >> PAGE_SHIFT, 1);
	}
	if (m->ram && m->frame_flags)
		return;
	format_size(name, sizeof(name), m->ram_size);
	error_errno(e, err, "memory %s: cannot allocate guest RAM; use a smaller --memory", name);
}

struct memory *memory_create_as(u64 size, unsigned flags, struct error *e)
{
	struct memory *m;

	if (check_host(size, flags, e))
		return NULL;
	m = calloc(1, sizeof(*m));
	if (!m) {
		error_set(e, "not enough host memory");
		return NULL;
	}
	m->ram_size = size;
	m->flags = flags;
	m->fd = m->pagemap_fd = -1;
	m->mixed = (struct region){
		.mem = m, .len = UINT64_MAX, .kind = REGION_MMIO, .ops = &memory_mixed_ops, .opaque = m, .name = "mixed"
	};
	m->range_cap = 1;
	m->range = calloc(m->range_cap, sizeof(*m->range));
	if (m->range)
		make_ram(m, e);
	else
		error_set(e, "not enough host memory");
	if (m->frame_flags)
		return m;
	memory_destroy(m);
	return NULL;
}

struct memory *memory_create(u64 size, struct error *e)
{
	return memory_create_as(size, 0, e);
}

static void forget_lost(const struct memory *m);

void memory_free_ram(struct memory *m)
{
	forget_lost(m);
	if (m->missing)
		missing_forget(m->missing);
	track_free_set(m);
	free(m->frame_flags);
	free(m->filed);
	if (m->place_len)
		memory_unplace(m);
	else if (m->ram)
		munmap(m->ram, m->ram_size);
	if (m->fd >= 0)
		close(m->fd);
	if (m->pagemap_fd >= 0)
		close(m->pagemap_fd);
}

/* ---- frames that are mapped from a file ---- */

static bool filed(const struct memory *m, u64 frame)
{
	return m->filed && frame < m->ram_size >> PAGE_SHIFT && (m->filed[frame / 64] & BIT(frame % 64));
}

static void set_filed(struct memory *m, u64 frame, u64 n, bool yes)
{
	for (u64 run; n; n -= run, frame += run) {
		u64 bits;

		run = MIN(n, 64 - frame % 64);
		bits = (run == 64 ? ~0ull : BIT(run) - 1) << frame % 64;
		if (yes)
			m->filed[frame / 64] |= bits;
		else
			m->filed[frame / 64] &= ~bits;
	}
}

/* The frames from `frame` on, at most `max`, that are of its kind. */
static u64 run_of(const struct memory *m, u64 frame, u64 max, bool *of_file)
{
	u64 n = 1;

	*of_file = filed(m, frame);
	if (!m->filed)
		return max;
	while (n < max && filed(m, frame + n) == *of_file)
		n++;
	return n;
}

/* How many more mappings there are if frames [frame, frame + n), all of the file or none, change their kind. */
static int more_pieces(const struct memory *m, u64 frame, u64 n)
{
	bool of_file = filed(m, frame);

	return ((frame && filed(m, frame - 1) == of_file) ? 1 : -1) + (filed(m, frame + n) == of_file ? 1 : -1);
}

/*
 * Whose RAM a signal handler may find cut off. Signals know no machine, so
 * this is the process's; a slot is taken as long as the machine lives.
 */
static struct {
	_Atomic uintptr_t ram, size;
} lost[16];

static bool remember_lost(const struct memory *m)
{
	for (unsigned i = 0; i < ARRAY_SIZE(lost); i++)
		if (lost[i].ram == (uintptr_t)m->ram)
			return true;
	for (unsigned i = 0; i < ARRAY_SIZE(lost); i++) {
		uintptr_t none = 0;

		if (!atomic_compare_exchange_strong(&lost[i].ram, &none, (uintptr_t)m->ram))
			continue;
		lost[i].size = m->ram_size;
		return true;
	}
	return false;
}

static void forget_lost(const struct memory *m)
{
	for (unsigned i = 0; m->ram && i < ARRAY_SIZE(lost); i++) {
		if (lost[i].ram != (uintptr_t)m->ram)
			continue;
		lost[i].size = 0;
		lost[i].ram = 0;
	}
}

bool memory_file_lost(const void *addr)
{
	for (unsigned i = 0; i < ARRAY_SIZE(lost); i++)
		if ((uintptr_t)addr - lost[i].ram < lost[i].size)
			return true;
	return false;
}

/* UINT64_MAX: there is none. A file system that knows no holes has none. */
static u64 seek(int fd, u64 pos, int whence)
{
	off_t at = lseek(fd, (off_t)pos, whence);

	if (at >= 0)
		return (u64)at;
	return whence == SEEK_DATA && errno != ENXIO ? pos : UINT64_MAX;
}

/* The next piece [*from, *end) of the file in [*from, last), or false. Small holes count as data. */
static bool next_extent(int fd, u64 *from, u64 *end, u64 last)
{
	u64 data = seek(fd, *from, SEEK_DATA), hole;

	if (data >= last)
		return false;
	*from = data & PAGE_MASK;
	do {
		hole = seek(fd, data, SEEK_HOLE);
		if (hole <= data || hole >= last) {
			*end = last;
			break;
		}
		*end = MIN((hole + ~PAGE_MASK) & PAGE_MASK, last);
		data = seek(fd, *end, SEEK_DATA);
	} while (data < last && data - *end < HUGE_PAGE);
	return true;
}

static int check_file(const struct memory *m, u64 ram_off, int fd, u64 off, u64 len, struct error *e)
{
	struct stat st;

	if (m->flags & MEMORY_SHARED)
		return error_set(e, "a file cannot be mapped as RAM that is shared with other processes");
	if ((ram_off | off | len) & ~PAGE_MASK || ram_off > m->ram_size || len > m->ram_size - ram_off)
		return error_set(e,
				 "a file's RAM [0x%llx, +0x%llx) is not whole pages within the machine's 0x%llx bytes",
				 (unsigned long long)ram_off, (unsigned long long)len, (unsigned long long)m->ram_size);
	if (fstat(fd, &st))
		return error_errno(e, errno, "the file with RAM");
	if (!S_ISREG(st.st_mode) || off > (u64)st.st_size || len > (u64)st.st_size - off)
		return error_set(e, "the file with RAM is too short: %lld bytes, 0x%llx are wanted at 0x%llx",
				 (long long)st.st_size, (unsigned long long)len, (unsigned long long)off);
	return 0;
}

static int map_extents(struct memory *m, u64 ram_off, int fd, u64 off, u64 len, struct error *e)
{
	u64 from = off, end;

	for (; next_extent(fd, &from, &end, off + len); from = end) {
		u8 *at = m->ram + ram_off + (from - off);

		if (m->file_pieces + 2 > FILE_PIECES_MAX)
			end = off + len; /* the holes that are left are mapped as well */
		if (mmap(at, end - from, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd,
			 (off_t)from) != at)
			return error_errno(e, errno, "cannot map the file with RAM");
		madvise(at, end - from, MADV_DONTDUMP);
		madvise(at, end - from, MADV_DONTFORK);
		set_filed(m, (ram_off + from - off) >> PAGE_SHIFT, (end - from) >> PAGE_SHIFT, true);
		m->file_pieces += 2;
	}
	return 0;
}

int memory_map_file(struct memory *m, u64 ram_off, int fd, u64 off, u64 len, struct error *e)
{
	if (check_file(m, ram_off, fd, off, len, e))
		return -1;
	if (!len)
		return 0;
	if (m->filed)
		set_filed(m, ram_off >> PAGE_SHIFT, len >> PAGE_SHIFT, false);
	else
		m->filed = calloc((m->ram_size >> PAGE_SHIFT) / 64 + 1, sizeof(*m->filed));
	if (!m->filed)
		return error_set(e, "not enough host memory");
	if (!remember_lost(m))
		return error_set(e, "too many machines of one process have RAM from files");
	if (map_private(m, m->ram + ram_off, len) == MAP_FAILED)
		return error_errno(e, errno, "cannot map the file with RAM");
	if (!map_extents(m, ram_off, fd, off, len, e))
		return 0;
	map_private(m, m->ram + ram_off, len);
	set_filed(m, ram_off >> PAGE_SHIFT, len >> PAGE_SHIFT, false);
	return -1;
}

/* ---- made by somebody else ---- */

void *memory_area(u64 size, struct error *e)
{
	/* an address that tables of pages can be moved from as a whole: as RAM's, at the start of a huge page */
	u8 *p =
	    mmap(NULL, size + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	u64 before;

	if (p == MAP_FAILED) {
		error_errno(e, errno, "cannot allocate guest RAM of %llu MiB", (unsigned long long)(size / MiB));
		return NULL;
	}
	before = -(uintptr_t)p & (HUGE_PAGE - 1);
	if (before)
		munmap(p, before);
	if (before < HUGE_PAGE)
		munmap(p + before + size, HUGE_PAGE - before);
	madvise(p + before, size, MADV_DONTFORK);
	madvise(p + before, size, MADV_HUGEPAGE);
	return p + before;
}

int memory_adopt(struct memory *m, void *area, struct error *e)
{
	if (m->flags & MEMORY_SHARED)
		return error_set(e, "RAM that is shared with other processes cannot be replaced");
	if (mremap(area, m->ram_size, m->ram_size, MREMAP_MAYMOVE | MREMAP_FIXED, m->ram) != m->ram)
		return error_errno(e, errno, "cannot move guest RAM to its place");
	advise(m, m->ram, m->ram_size);
	return 0;
}

/* ---- giving back ---- */

/* Where the host cannot punch a hole (a signal in the way is none), the zeros are written: the guest sees no
 * difference. */
static void punch(struct memory *m, u64 off, u64 len)
{
	int r;

	do
		r = fallocate(m->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)len);
	while (r < 0 && errno == EINTR);
	if (r < 0)
		memset(m->ram + off, 0, len);
}

/* Pages of a file become anonymous, as long as that does not make too many pieces. */
static void unfile(struct memory *m, u64 off, u64 len)
{
	u64 frame = off >> PAGE_SHIFT, n = len >> PAGE_SHIFT;
	int more = more_pieces(m, frame, n);

	if ((more > 0 && m->file_pieces + (u32)more > FILE_PIECES_MAX) ||
	    map_private(m, m->ram + off, len) == MAP_FAILED) {
		memset(m->ram + off, 0, len);
		return;
	}
	m->file_pieces = (u32)MAX(0, (int)m->file_pieces + more);
	set_filed(m, frame, n, false);
}

static void give_back(struct memory *m, u64 off, u64 len)
{
	u64 run;
	bool of_file;

	if (m->flags & MEMORY_SHARED) {
		punch(m, off, len);
		return;
	}
	if (m->missing) {
		/* what is there stays there (mem/missing.h); memory_ptr() has waited for it */
		memset(m->ram + off, 0, len);
		return;
	}
	for (; len; off += run, len -= run) {
		run = run_of(m, off >> PAGE_SHIFT, len >> PAGE_SHIFT, &of_file) << PAGE_SHIFT;
		if (of_file)
			unfile(m, off, run);
		else if (madvise(m->ram + off, run, MADV_DONTNEED))
			memset(m->ram + off, 0, run);
	}
}

int memory_discard(struct memory *m, gpa_t gpa, u64 len)
{
	u64 off = (uintptr_t)memory_ptr(m, gpa, len, true) - (uintptr_t)m->ram;

	/* no pointer, and memory that is not RAM of memory_create(), is an offset beyond RAM */
	if (((gpa | len) & ~PAGE_MASK) || off >= m->ram_size || len > m->ram_size - off)
		return -1;
	give_back(m, off, len);
	for (u64 at = 0; at < len; at += GiB)
		memory_notify_written(m, gpa + at, (unsigned)MIN(len - at, GiB));
	return 0;
}

/* ---- what there is ---- */

static u64 next_of_memfd(const struct memory *m, u64 from, u64 *end)
{
	off_t data = lseek(m->fd, (off_t)from, SEEK_DATA), hole;

	if (data < 0 || (u64)data >= m->ram_size)
		return m->ram_size;
	hole = lseek(m->fd, data, SEEK_HOLE);
	*end = hole <= data ? m->ram_size : MIN((u64)hole, m->ram_size);
	return (u64)data;
}

/* Present or swapped out (Documentation/admin-guide/mm/pagemap.rst). */
#define PAGEMAP_THERE (BIT(63) | BIT(62))
#define PAGEMAP_CHUNK 1024u

/* Frames [frame, frame + n), n <= PAGEMAP_CHUNK: what the host has of them. All, if it does not say. */
static void look(const struct memory *m, u64 frame, u64 n, u64 *entry)
{
	u64 first = ((uintptr_t)m->ram >> PAGE_SHIFT) + frame;
	ssize_t got = m->pagemap_fd < 0 ? -1 : pread(m->pagemap_fd, entry, n * 8, (off_t)(first * 8));

	for (u64 i = 0; i < n; i++)
		if ((u64)MAX(got, 0) < 8 * (i + 1) || filed(m, frame + i))
			entry[i] = PAGEMAP_THERE;
}

static u64 next_of_private(const struct memory *m, u64 from, u64 *end)
{
	u64 frames = m->ram_size >> PAGE_SHIFT, entry[PAGEMAP_CHUNK];

	for (u64 at = from >> PAGE_SHIFT; at < frames; at += PAGEMAP_CHUNK) {
		u64 n = MIN(frames - at, PAGEMAP_CHUNK), i = 0, first;

		look(m, at, n, entry);
		while (i < n && !(entry[i] & PAGEMAP_THERE))
			i++;
		first = i;
		while (i < n && (entry[i] & PAGEMAP_THERE))
			i++;
		if (first == n)
			continue;
		*end = (at + i) << PAGE_SHIFT;
		return (at + first) << PAGE_SHIFT;
	}
	return m->ram_size;
}

u64 memory_next_data(const struct memory *m, u64 from, u64 *end)
{
	*end = m->ram_size;
	if (from >= m->ram_size)
		return m->ram_size;
	return m->flags & MEMORY_SHARED ? next_of_memfd(m, from, end) : next_of_private(m, from, end);
}
