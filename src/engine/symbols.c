/* Names of guest addresses. The file is the user's: every offset in it is checked. */
#include "engine/symbols.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX (2 * GiB)
#define REACH (1 * MiB)

struct symbol {
	u64 addr;
	const char *name;
};

struct guest_symbols {
	char *file; /* the names lie in it; a zero byte is behind it */
	size_t size;
	struct symbol *symbol; /* by address */
	size_t n, room;
};

static int read_file(struct guest_symbols *s, const char *path, struct error *e)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	size_t room;
	ssize_t got = 0;

	if (fd < 0 || fstat(fd, &st)) {
		error_errno(e, errno, "--guest-symbols: cannot open %s", path);
		if (fd >= 0)
			close(fd);
		return -1;
	}
	if (!S_ISREG(st.st_mode) || (u64)st.st_size > FILE_MAX) {
		close(fd);
		return error_set(e, "--guest-symbols: %s is no regular file of at most 2 GiB", path);
	}
	/* files below /proc do not tell their size */
	room = st.st_size ? (size_t)st.st_size : 64 * MiB;
	s->file = malloc(room + 1);
	while (s->file && s->size < room && (got = read(fd, s->file + s->size, room - s->size)) > 0)
		s->size += (size_t)got;
	close(fd);
	if (!s->file)
		return error_set(e, "--guest-symbols: not enough host memory for %s", path);
	if (got < 0)
		return error_set(e, "--guest-symbols: cannot read %s", path);
	s->file[s->size] = 0;
	return 0;
}

static int add(struct guest_symbols *s, u64 addr, const char *name)
{
	if (s->n == s->room) {
		size_t room = s->room ? 2 * s->room : 4096;
		struct symbol *p = realloc(s->symbol, room * sizeof(*p));

		if (!p)
			return -1;
		s->symbol = p;
		s->room = room;
	}
	s->symbol[s->n++] = (struct symbol){ addr, name };
	return 0;
}

/* Lines "ADDRESS TYPE NAME ..."; others are passed over. */
static int parse_text(struct guest_symbols *s)
{
	char *line = s->file, *next;

	for (; *line; line = next) {
		char *end = line + strcspn(line, "\n"), *at;
		u64 addr = strtoull(line, &at, 16);
		size_t len;

		next = *end ? end + 1 : end;
		*end = 0;
		if (at == line || at > end || at[0] != ' ' || !at[1] || !strchr("tTwW", at[1]) || at[2] != ' ')
			continue;
		at += 3;
		len = strcspn(at, " \t\r");
		if (!len || !addr)
			continue;
		at[len] = 0;
		if (add(s, addr, at))
			return -1;
	}
	return 0;
}

static bool inside(const struct guest_symbols *s, u64 offset, u64 size)
{
	return offset <= s->size && size <= s->size - offset;
}

/* The functions of one symbol table, whose names are in section `strings`. */
static int parse_table(struct guest_symbols *s, const Elf64_Shdr *table, const Elf64_Shdr *strings)
{
	if (!inside(s, table->sh_offset, table->sh_size) || !inside(s, strings->sh_offset, strings->sh_size))
		return 0;
	for (u64 at = 0; at + sizeof(Elf64_Sym) <= table->sh_size; at += sizeof(Elf64_Sym)) {
		Elf64_Sym sym;
		const char *name;

		memcpy(&sym, s->file + table->sh_offset + at, sizeof(sym));
		if (ELF64_ST_TYPE(sym.st_info) != STT_FUNC || sym.st_shndx == SHN_UNDEF ||
		    sym.st_name >= strings->sh_size)
			continue;
		name = s->file + strings->sh_offset + sym.st_name; /* ends inside the file: see read_file() */
		if (*name && add(s, sym.st_value, name))
			return -1;
	}
	return 0;
}

static int parse_elf(struct guest_symbols *s)
{
	Elf64_Ehdr h;
	Elf64_Shdr table, strings;

	if (s->size < sizeof(h))
		return 0;
	memcpy(&h, s->file, sizeof(h));
	if (h.e_ident[EI_CLASS] != ELFCLASS64 || h.e_shentsize != sizeof(Elf64_Shdr) ||
	    !inside(s, h.e_shoff, (u64)h.e_shnum * sizeof(Elf64_Shdr)))
		return 0;
	for (unsigned k = 0; k < h.e_shnum; k++) {
		memcpy(&table, s->file + h.e_shoff + k * sizeof(table), sizeof(table));
		if ((table.sh_type != SHT_SYMTAB && table.sh_type != SHT_DYNSYM) || table.sh_link >= h.e_shnum)
			continue;
		memcpy(&strings, s->file + h.e_shoff + table.sh_link * sizeof(strings), sizeof(strings));
		if (parse_table(s, &table, &strings))
			return -1;
	}
	return 0;
}

static int by_address(const void *a, const void *b)
{
	const struct symbol *p = a, *q = b;

	return p->addr < q->addr ? -1 : p->addr > q->addr;
}

struct guest_symbols *guest_symbols_load(const char *path, struct error *e)
{
	struct guest_symbols *s = calloc(1, sizeof(*s));
	int ret;

	if (!s || read_file(s, path, e)) {
		if (!s)
			error_set(e, "--guest-symbols: not enough host memory");
		guest_symbols_free(s);
		return NULL;
	}
	ret = s->size > SELFMAG && !memcmp(s->file, ELFMAG, SELFMAG) ? parse_elf(s) : parse_text(s);
	if (ret || !s->n) {
		if (ret)
			error_set(e, "--guest-symbols: not enough host memory for %s", path);
		else
			error_set(e,
				  "--guest-symbols: %s names no function (a System.map, kallsyms or ELF of 64 bits?)",
				  path);
		guest_symbols_free(s);
		return NULL;
	}
	qsort(s->symbol, s->n, sizeof(*s->symbol), by_address);
	return s;
}

void guest_symbols_free(struct guest_symbols *s)
{
	if (!s)
		return;
	free(s->file);
	free(s->symbol);
	free(s);
}

const char *guest_symbols_find(const struct guest_symbols *s, u64 addr, u64 *offset)
{
	size_t lo = 0, hi = s ? s->n : 0;

	while (lo < hi) { /* the last that is not above */
		size_t mid = (lo + hi) / 2;

		if (s->symbol[mid].addr <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (!lo || addr - s->symbol[lo - 1].addr > REACH)
		return NULL;
	*offset = addr - s->symbol[lo - 1].addr;
	return s->symbol[lo - 1].name;
}

void guest_symbols_format(const struct guest_symbols *s, u64 addr, char *out, size_t size)
{
	u64 offset;
	const char *name = guest_symbols_find(s, addr, &offset);

	if (!name)
		snprintf(out, size, "%lx", addr);
	else if (offset)
		snprintf(out, size, "%s+0x%lx", name, offset);
	else
		snprintf(out, size, "%s", name);
}
