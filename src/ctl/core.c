#include "ctl/core.h"

#include <elf.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/fpu.h"
#include "cpu/vcpu.h"
#include "ctl/core_map.h"

#define PHDRS_MAX 60000u /* below PN_XNUM */
#define FXSAVE_SIZE 512

struct piece {
	gpa_t first;
	u64 len, offset; /* offset: in the file */
	const u8 *host;
	u32 flags; /* PF_* */
};

struct core {
	u8 *head; /* up to the first piece */
	size_t head_len, head_size;
	struct piece *piece;
	unsigned pieces;
	u64 size;
	const u8 *ram;
	u64 ram_size;
	struct memory *mem;
	/* RAM [known, data) is zeros, [data, data_end) may be something else */
	u64 known, data, data_end;
};

static u64 page_up(u64 n)
{
	return (n + PAGE_SIZE - 1) & PAGE_MASK;
}

/* ---- notes ---- */

static int put(struct core *c, const void *p, size_t n)
{
	if (c->head_len + n > c->head_size) {
		size_t size = 2 * (c->head_size + n);
		u8 *head = realloc(c->head, size);

		if (!head)
			return -1;
		c->head = head;
		c->head_size = size;
	}
	memcpy(c->head + c->head_len, p, n);
	c->head_len += n;
	return 0;
}

static int put_note(struct core *c, const char *name, u32 type, const void *desc, u32 len)
{
	const Elf64_Nhdr h = { .n_namesz = (u32)strlen(name) + 1, .n_descsz = len, .n_type = type };
	const u8 zeros[4] = { 0 };

	if (put(c, &h, sizeof(h)) || put(c, name, h.n_namesz) || put(c, zeros, -h.n_namesz & 3))
		return -1;
	return put(c, desc, len) || put(c, zeros, -len & 3) ? -1 : 0;
}

/* struct elf_prstatus of Linux on x86-64; times and signals have no meaning here. */
struct prstatus {
	u8 info_and_signals[32];
	u32 pid, ppid, pgrp, sid;
	u64 times[8];
	struct {
		u64 r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, orig_rax;
		u64 rip, cs, rflags, rsp, ss, fs_base, gs_base, ds, es, fs, gs;
	} reg;
	u32 fpvalid, pad;
};
_Static_assert(sizeof(struct prstatus) == 336 && offsetof(struct prstatus, reg) == 112, "as Linux has it");

static int put_prstatus(struct core *c, const struct cpu *s, unsigned index)
{
	const u64 *r = s->gpr;
	const struct prstatus p = {
		.pid = index + 1,
		.reg = { .r15 = r[15],
			 .r14 = r[14],
			 .r13 = r[13],
			 .r12 = r[12],
			 .rbp = r[5],
			 .rbx = r[3],
			 .r11 = r[11],
			 .r10 = r[10],
			 .r9 = r[9],
			 .r8 = r[8],
			 .rax = r[0],
			 .rcx = r[1],
			 .rdx = r[2],
			 .rsi = r[6],
			 .rdi = r[7],
			 .orig_rax = ~0ull, /* in no system call */
			 .rip = s->rip,
			 .cs = s->seg[SEG_CS].sel,
			 .rflags = s->rflags,
			 .rsp = r[4],
			 .ss = s->seg[SEG_SS].sel,
			 .fs_base = s->seg[SEG_FS].base,
			 .gs_base = s->seg[SEG_GS].base,
			 .ds = s->seg[SEG_DS].sel,
			 .es = s->seg[SEG_ES].sel,
			 .fs = s->seg[SEG_FS].sel,
			 .gs = s->seg[SEG_GS].sel },
		.fpvalid = 1,
	};

	return put_note(c, "CORE", NT_PRSTATUS, &p, sizeof(p));
}

/* QEMU's note, version 1: what of a processor crash(8) looks for and Linux's notes lack. */
struct qemu_segment {
	u32 selector, limit, flags, pad;
	u64 base;
};
struct qemu_state {
	u32 version, size;
	u64 rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8to15[8];
	u64 rip, rflags;
	struct qemu_segment cs, ds, es, fs, gs, ss, ldt, tr, gdt, idt;
	u64 cr[5];
	u64 kernel_gs_base;
};
_Static_assert(sizeof(struct qemu_state) == 440, "as QEMU has it");

/* `flags`: the bits of the descriptor's upper half, in their place. */
static struct qemu_segment qemu_segment(const struct segment *s)
{
	return (struct qemu_segment){
		.selector = s->sel, .limit = s->limit, .flags = (s->attr & 0xf0ff) << 8, .base = s->base
	};
}

static struct qemu_segment qemu_table(const struct table_reg *t)
{
	return (struct qemu_segment){ .limit = t->limit, .base = t->base };
}

static int put_qemu(struct core *c, const struct cpu *s)
{
	const u64 *r = s->gpr;
	struct qemu_state q = {
		.version = 1,
		.size = sizeof(q),
		.rax = r[0],
		.rbx = r[3],
		.rcx = r[1],
		.rdx = r[2],
		.rsi = r[6],
		.rdi = r[7],
		.rsp = r[4],
		.rbp = r[5],
		.rip = s->rip,
		.rflags = s->rflags,
		.cs = qemu_segment(&s->seg[SEG_CS]),
		.ds = qemu_segment(&s->seg[SEG_DS]),
		.es = qemu_segment(&s->seg[SEG_ES]),
		.fs = qemu_segment(&s->seg[SEG_FS]),
		.gs = qemu_segment(&s->seg[SEG_GS]),
		.ss = qemu_segment(&s->seg[SEG_SS]),
		.ldt = qemu_segment(&s->ldtr),
		.tr = qemu_segment(&s->tr),
		.gdt = qemu_table(&s->gdtr),
		.idt = qemu_table(&s->idtr),
		.cr = { s->cr0, 0, s->cr2, s->cr3, s->cr4 },
		.kernel_gs_base = s->kernel_gs_base,
	};

	memcpy(q.r8to15, r + 8, sizeof(q.r8to15));
	return put_note(c, "QEMU", 0, &q, sizeof(q));
}

size_t core_vmcoreinfo(struct memory *mem, gpa_t gpa, u64 len, u8 out[CORE_VMCOREINFO_MAX])
{
	static const char name[] = "VMCOREINFO";
	Elf64_Nhdr h;
	size_t desc = sizeof(h) + ((sizeof(name) + 3) & ~3ull), n;
	const u8 *note;

	len = MIN(len, CORE_VMCOREINFO_MAX);
	/* memory only: reading a device has effects */
	note = len < desc ? NULL : memory_ptr(mem, gpa, len, false);
	if (!note)
		return 0;
	/* once: a device may write to it */
	memcpy(out, note, len);
	memcpy(&h, out, sizeof(h));
	n = desc + (((u64)h.n_descsz + 3) & ~3ull);
	if (h.n_namesz != sizeof(name) || h.n_type || !h.n_descsz || n > len ||
	    memcmp(out + sizeof(h), name, sizeof(name)))
		return 0;
	return n;
}

static int put_vmcoreinfo(struct core *c, struct machine *m)
{
	u8 *note;
	gpa_t gpa;
	u32 len;
	int ret;

	if (!machine_vmcoreinfo(m, &gpa, &len))
		return 0;
	note = malloc(CORE_VMCOREINFO_MAX);
	ret = note ? put(c, note, core_vmcoreinfo(machine_memory(m), gpa, len, note)) : -1;
	free(note);
	return ret;
}

static int put_notes(struct core *c, struct machine *m)
{
	unsigned cpus = machine_cpus(m);

	for (unsigned i = 0; i < cpus; i++) {
		struct vcpu *v = machine_vcpu(m, i);

		fpu_park(v);
		if (put_prstatus(c, &v->cpu, i) || put_note(c, "CORE", NT_FPREGSET, v->cpu.fpu, FXSAVE_SIZE))
			return -1;
	}
	for (unsigned i = 0; i < cpus; i++)
		if (put_qemu(c, &machine_vcpu(m, i)->cpu))
			return -1;
	return put_vmcoreinfo(c, m);
}

/* ---- memory ---- */

static int gather_pieces(struct core *c, struct memory *mem)
{
	unsigned n = memory_ranges(mem, NULL, 0);
	struct memory_range *range = calloc(n + 1, sizeof(*range));

	c->piece = calloc(n + 1, sizeof(*c->piece));
	if (!range || !c->piece) {
		free(range);
		return -1;
	}
	memory_ranges(mem, range, n);
	for (unsigned i = 0; i < n; i++) {
		const struct memory_range *r = &range[i];
		const u32 flags = PF_R | PF_X | (r->kind == REGION_RAM ? PF_W : 0);
		struct piece *last = c->pieces ? &c->piece[c->pieces - 1] : NULL;

		if (!r->host)
			continue;
		if (last && last->first + last->len == r->first && last->host + last->len == r->host &&
		    last->flags == flags)
			last->len += r->last - r->first + 1;
		else
			c->piece[c->pieces++] = (struct piece){ r->first, r->last - r->first + 1, 0, r->host, flags };
	}
	free(range);
	return 0;
}

static void place_pieces(struct core *c, u64 offset)
{
	for (unsigned i = 0; i < c->pieces; i++) {
		c->piece[i].offset = page_up(offset);
		offset = c->piece[i].offset + c->piece[i].len;
	}
	c->size = offset;
}

/* What of mapping `m` lies in piece `p`. */
static bool in_piece(const struct core_mapping *m, const struct piece *p, Elf64_Phdr *h)
{
	u64 first = m->phys > p->first ? m->phys : p->first;
	u64 end = MIN(m->phys + m->len, p->first + p->len);

	if (first >= end)
		return false;
	*h = (Elf64_Phdr){ .p_type = PT_LOAD,
			   .p_flags = p->flags,
			   .p_offset = p->offset + (first - p->first),
			   .p_vaddr = m->virt + (first - m->phys),
			   .p_paddr = first,
			   .p_filesz = end - first,
			   .p_memsz = end - first }; /* p_align 0: by it crash(8) knows the kind of file */
	return true;
}

/* The headers of what `map` maps; h NULL: counts only. */
static u64 mapped_phdrs(const struct core *c, const struct core_map *map, Elf64_Phdr *h)
{
	Elf64_Phdr scratch;
	u64 n = 0;

	for (size_t i = 0; i < map->count; i++)
		for (unsigned j = 0; j < c->pieces; j++)
			n += in_piece(&map->at[i], &c->piece[j], h ? &h[n] : &scratch);
	return n;
}

static void plain_phdrs(const struct core *c, Elf64_Phdr *h)
{
	for (unsigned i = 0; i < c->pieces; i++) {
		const struct core_mapping all = { c->piece[i].first, c->piece[i].first, c->piece[i].len };

		in_piece(&all, &c->piece[i], &h[i]);
	}
}

/* ---- the file ---- */

/* Notes are in c->head: puts what comes before them in front. */
static int finish_head(struct core *c, const struct core_map *map, struct error *e)
{
	u64 mapped = mapped_phdrs(c, map, NULL), count = 1 + mapped + c->pieces;
	size_t notes = c->head_len, before = sizeof(Elf64_Ehdr) + count * sizeof(Elf64_Phdr);
	Elf64_Phdr *h;
	u8 *head;

	if (count > PHDRS_MAX)
		return error_set(e, "the guest's page tables map too much in too many pieces; dump without --paging");
	c->head_len = page_up(before + notes);
	head = calloc(1, c->head_len);
	if (!head)
		return error_set(e, "not enough host memory");
	memcpy(head + before, c->head, notes);
	free(c->head);
	c->head = head;
	place_pieces(c, c->head_len);
	*(Elf64_Ehdr *)head = (Elf64_Ehdr){
		.e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
		.e_type = ET_CORE,
		.e_machine = EM_X86_64,
		.e_version = EV_CURRENT,
		.e_phoff = sizeof(Elf64_Ehdr),
		.e_ehsize = sizeof(Elf64_Ehdr),
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = (u16)count,
	};
	h = (Elf64_Phdr *)(head + sizeof(Elf64_Ehdr));
	h[0] = (Elf64_Phdr){ .p_type = PT_NOTE, .p_offset = before, .p_filesz = notes, .p_memsz = notes, .p_align = 4 };
	mapped_phdrs(c, map, h + 1);
	plain_phdrs(c, h + 1 + mapped);
	return 0;
}

static int walk(struct machine *m, struct core_map *map, struct error *e)
{
	for (unsigned i = 0; i < machine_cpus(m); i++) {
		struct vcpu *v = machine_vcpu(m, i);

		if (core_map_add(map, machine_memory(m), &v->cpu, v->model->phys_bits, e))
			return -1;
	}
	return core_map_finish(map, e);
}

struct core *core_create(struct machine *m, bool paging, struct error *e)
{
	struct memory *mem = machine_memory(m);
	struct core *c = calloc(1, sizeof(*c));
	struct core_map map = { 0 };
	int ret;

	if (!c || gather_pieces(c, mem) || put_notes(c, m)) {
		error_set(e, "not enough host memory");
		core_destroy(c);
		return NULL;
	}
	c->ram = memory_ram(mem);
	c->ram_size = memory_ram_size(mem);
	c->mem = mem;
	ret = paging ? walk(m, &map, e) : 0;
	if (!ret)
		ret = finish_head(c, &map, e);
	free(map.at);
	if (!ret)
		return c;
	core_destroy(c);
	return NULL;
}

void core_destroy(struct core *c)
{
	if (!c)
		return;
	free(c->head);
	free(c->piece);
	free(c);
}

u64 core_size(const struct core *c)
{
	return c->size;
}

/* What the host never had to provide is zeros; it is not looked at, or the host would provide it. */
static size_t read_ram(struct core *c, u64 off, void *buf, size_t n)
{
	if (off < c->known || off >= c->data_end) {
		c->known = off;
		c->data = memory_next_data(c->mem, off, &c->data_end);
		if (c->data >= c->ram_size)
			c->data = c->data_end = c->ram_size;
	}
	if (off < c->data) {
		n = MIN(n, c->data - off);
		memset(buf, 0, n);
	} else {
		n = MIN(n, c->data_end - off);
		memcpy(buf, c->ram + off, n);
	}
	return n;
}

static size_t read_memory(struct core *c, const u8 *host, void *buf, size_t n)
{
	if (host >= c->ram && host < c->ram + c->ram_size)
		return read_ram(c, (u64)(host - c->ram), buf, n);
	memcpy(buf, host, n);
	return n;
}

size_t core_read(struct core *c, u64 pos, void *buf, size_t n)
{
	u64 next = c->size;

	if (pos < c->head_len) {
		n = MIN(n, c->head_len - pos);
		memcpy(buf, c->head + pos, n);
		return n;
	}
	for (unsigned i = 0; i < c->pieces; i++) {
		const struct piece *p = &c->piece[i];

		if (pos < p->offset) {
			next = p->offset;
			break;
		}
		if (pos - p->offset < p->len)
			return read_memory(c, p->host + (pos - p->offset), buf, MIN(n, p->len - (pos - p->offset)));
	}
	/* between two pieces */
	n = MIN(n, next - MIN(pos, next));
	memset(buf, 0, n);
	return n;
}
