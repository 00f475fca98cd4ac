/*
 * oracle [--engine NAME] [--seed N] [--count N] [--mnemonic NAME] [--form N [--instance HEX]] [--refused N] [--mode32]
 *        [--locks] [-v]
 *
 * First every form is tried a few times: does the host run it? The engine must
 * agree that it does not (#UD) or do the same. Then random instances of the
 * forms the host runs, each form as often as any other, the ones an engine
 * does by itself somewhat more. Exit status 1 on any difference or when less
 * than 95 % of the forms were tested. --locks: as if others used guest RAM too.
 */
#include "oracle.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PROBES 16
#define PRINTED_MAX 20

enum code_mode oracle_mode = CODE_64;

struct options {
	u64 seed, count, instance, refused;
	const char *mnemonic, *engine;
	long form;
	bool one, verbose, undefined, mode32, locks;
	unsigned print;
};

static void usage(void)
{
	fprintf(stderr,
		"usage: oracle [--engine NAME] [--seed N] [--count N] [--mnemonic NAME] "
		"[--form N [--instance HEX]] [--refused N] [--print N] [--undefined] [--mode32] [--locks] [-v]\n");
	exit(2);
}

static void parse(struct options *p, int argc, char **argv)
{
	static const struct option longs[] = {
		{ "engine", 1, NULL, 'e' },   { "seed", 1, NULL, 's' },	 { "count", 1, NULL, 'c' },
		{ "mnemonic", 1, NULL, 'm' }, { "form", 1, NULL, 'f' },	 { "instance", 1, NULL, 'i' },
		{ "refused", 1, NULL, 'r' },  { "print", 1, NULL, 'p' }, { "undefined", 0, NULL, 'u' },
		{ "mode32", 0, NULL, '3' },   { "locks", 0, NULL, 'l' }, { NULL, 0, NULL, 0 },
	};
	int c;

	*p = (struct options){
		.seed = (u64)time(NULL), .count = 1000000, .engine = "interp", .form = -1, .print = PRINTED_MAX
	};
	while ((c = getopt_long(argc, argv, "v", longs, NULL)) != -1) {
		switch (c) {
		case 'e':
			p->engine = optarg;
			break;
		case 's':
			p->seed = strtoull(optarg, NULL, 0);
			break;
		case 'c':
			p->count = strtoull(optarg, NULL, 0);
			break;
		case 'm':
			p->mnemonic = optarg;
			break;
		case 'f':
			p->form = strtol(optarg, NULL, 0);
			break;
		case 'i':
			p->instance = strtoull(optarg, NULL, 16);
			p->one = true;
			break;
		case 'p':
			p->print = (unsigned)strtoul(optarg, NULL, 0);
			break;
		case 'r':
			p->refused = strtoull(optarg, NULL, 0);
			break;
		case 'u':
			p->undefined = true;
			break;
		case '3':
			p->mode32 = true;
			break;
		case 'l':
			p->locks = true;
			break;
		case 'v':
			p->verbose = true;
			break;
		default:
			usage();
		}
	}
	if (optind != argc || (p->one && p->form < 0))
		usage();
}

struct totals {
	u64 instances, different, undefined, faults, refused, refused_runs, excluded;
};

static void run_one(struct oracle *o, struct options *p, struct form *f, u64 seed, bool plain, struct totals *t)
{
	static struct instance n; /* large, aligned */
	static struct verdict v;

	if (!make_instance(o, &n, f, seed, plain))
		return;
	if (vendor_excludes(&n)) {
		t->excluded++;
		return;
	}
	if (!oracle_run(o, &n, &v))
		return;
	t->instances++;
	t->faults += v.host.vector >= 0;
	f->instances++;
	if (v.host.vector != EXC_UD)
		f->host_runs = true;
	if (v.undefined_differs) {
		t->undefined++;
		f->undefined++;
	}
	if (v.same && !p->verbose)
		return;
	if (v.same) {
		oracle_print(o, &n, &v);
		return;
	}
	t->different++;
	if (f->different++ < 2 && o->printed < p->print) {
		o->printed++;
		oracle_print(o, &n, &v);
	} else { /* the data must be restored */
		oracle_restore(o);
	}
}

static u64 mix(u64 seed, u64 n)
{
	struct rng r = { seed ^ n * 0xd1342543de82ef95ull };

	return rng_next(&r);
}

/* Encodings that the decoder refuses must be #UD on the host. */
static void run_refused(struct oracle *o, struct options *p, struct totals *t)
{
	struct rng r = { p->seed };
	static struct instance n;
	static struct verdict v;

	for (u64 i = 0; i < p->refused; i++) {
		struct form *f = &o->forms.form[rng_below(&r, o->forms.count)];

		if (!make_refused(o, &n, f, mix(p->seed, i + (1ull << 61))))
			continue;
		host_watchdog("an encoding that the decoder refuses");
		if (!oracle_run(o, &n, &v))
			continue;
		t->refused++;
		if (v.same)
			continue;
		t->refused_runs++;
		if (o->printed++ < p->print)
			oracle_print(o, &n, &v);
		else
			oracle_restore(o);
	}
}

static bool selected(const struct options *p, const struct form_list *l, const struct form *f)
{
	if (p->form >= 0 && f - l->form != p->form)
		return false;
	return !p->mnemonic || !strcasecmp(p->mnemonic, ZydisMnemonicGetString(f->mnemonic));
}

static void describe(char *text, size_t size, const struct form *f)
{
	snprintf(text, size, "%s map %u pp %u W%u L%u %02x %s", ZydisMnemonicGetString(f->mnemonic), f->map, f->pp,
		 f->w, f->l, f->opcode, f->mem ? "memory" : "register");
}

/* Does the host run the form? Privileged ones count as run when they fault otherwise than with #UD. */
static void probe(struct oracle *o, struct options *p, struct totals *t)
{
	for (unsigned k = 0; k < o->forms.count; k++) {
		struct form *f = &o->forms.form[k];
		char text[96];

		if (f->kind == FORM_EXCLUDED || !selected(p, &o->forms, f))
			continue;
		describe(text, sizeof(text), f);
		host_watchdog(text);
		for (unsigned i = 0; i < PROBES && !f->host_runs; i++)
			run_one(o, p, f, mix(p->seed, (u64)k << 32 | i), true, t);
	}
}

static void run_all(struct oracle *o, struct options *p, struct totals *t)
{
	struct form **all = calloc(o->forms.count + 1, sizeof(*all)),
		    **core = calloc(o->forms.count + 1, sizeof(*core));
	unsigned n = 0, cores = 0;
	struct rng r = { p->seed };

	for (unsigned k = 0; k < o->forms.count; k++) {
		struct form *f = &o->forms.form[k];

		if (!f->host_runs || !selected(p, &o->forms, f))
			continue;
		all[n++] = f;
		if (f->core)
			core[cores++] = f;
	}
	for (u64 i = 0; n && t->instances < p->count; i++) {
		struct form *f = cores && i % 4 == 3 ? core[rng_below(&r, cores)] : all[(i - i / 4) % n];

		if (i % 1024 == 0) {
			char text[96];

			describe(text, sizeof(text), f);
			host_watchdog(text);
		}
		run_one(o, p, f, mix(p->seed, i + (1ull << 60)), false, t);
		if (i > 4 * p->count + 1000)
			break;
	}
	free(all);
	free(core);
}

struct row {
	unsigned known, runs, tested, different;
	u64 instances;
};

static void add(struct row *r, const struct form *f)
{
	r->known++;
	r->runs += f->host_runs;
	r->tested += f->host_runs && f->instances;
	r->instances += f->instances;
	r->different += f->different;
}

static void print_row(const char *name, const struct row *r)
{
	printf("%-26s %6u %10u %7u %10llu %11u\n", name, r->known, r->runs, r->tested, (unsigned long long)r->instances,
	       r->different);
}

static void print_excluded(const struct form_list *l)
{
	const char *seen[8] = { NULL };

	for (unsigned k = 0; k < l->count; k++) {
		const char *why = l->form[k].excluded;
		unsigned n = 0, s = 0;

		while (why && s < ARRAY_SIZE(seen) && seen[s] && seen[s] != why)
			s++;
		if (!why || s == ARRAY_SIZE(seen) || seen[s])
			continue;
		seen[s] = why;
		for (unsigned j = 0; j < l->count; j++)
			n += l->form[j].excluded == why;
		printf("not compared: %u forms: %s\n", n, why);
	}
}

/* Returns the percentage of the forms that the host runs and that were tested. */
static double print_coverage(const struct form_list *l)
{
	static struct row rows[ZYDIS_ISA_SET_MAX_VALUE + 1];
	struct row privileged = { 0 }, all = { 0 };

	for (unsigned k = 0; k < l->count; k++) {
		const struct form *f = &l->form[k];

		if (f->kind == FORM_PRIVILEGED)
			add(&privileged, f);
		if (f->kind != FORM_USER)
			continue;
		add(&rows[f->isa_set], f);
		add(&all, f);
	}
	printf("%-26s %6s %10s %7s %10s %11s\n", "instruction set", "forms", "host runs", "tested", "instances",
	       "differences");
	for (unsigned k = 0; k <= ZYDIS_ISA_SET_MAX_VALUE; k++)
		if (rows[k].known)
			print_row(ZydisISASetGetString((ZydisISASet)k), &rows[k]);
	print_row("all user-level", &all);
	print_row("privileged, faulting", &privileged);
	print_excluded(l);
	return all.runs ? 100.0 * all.tested / all.runs : 0;
}

static void print_undefined(const struct oracle *o)
{
	for (unsigned k = 0; k < o->forms.count; k++) {
		const struct form *f = &o->forms.form[k];
		char text[96];

		describe(text, sizeof(text), f);
		if (f->undefined)
			printf("undefined flags differ: %s: %u of %u\n", text, f->undefined, f->instances);
	}
}

int main(int argc, char **argv)
{
	static struct oracle o;
	struct totals t = { 0 };
	struct options p;
	struct engine_verdict why = { 0 };
	struct error e = { "" };
	const struct engine_ops *engine;
	double percent;

	parse(&p, argc, argv);
	engine = engine_choose(p.engine, &why, &e);
	if (!engine) {
		fprintf(stderr, "oracle: %s\n", e.text);
		return why.reason[0] ? 77 : 2; /* not here, and there is none: meson takes 77 for skipped */
	}
	printf("seed %llu\n", (unsigned long long)p.seed);
	fflush(stdout);
	o.verbose = p.verbose;
	oracle_mode = p.mode32 ? CODE_32 : CODE_64;
	o.engine_options.alone = !p.locks;
	oracle_memory(&o, engine, 1);
	if (!host_init(fpu_host_components(), p.mode32)) {
		printf("the host has no XSAVE: skipped\n");
		return 77;
	}
	forms_enumerate(&o.forms);
	if (p.one) {
		if (p.form >= (long)o.forms.count)
			usage();
		run_one(&o, &p, &o.forms.form[p.form], p.instance, false, &t);
		if (!t.different)
			run_one(&o, &p, &o.forms.form[p.form], p.instance, true, &t);
		return t.different != 0;
	}
	probe(&o, &p, &t);
	run_all(&o, &p, &t);
	run_refused(&o, &p, &t);
	percent = print_coverage(&o.forms);
	if (p.undefined)
		print_undefined(&o);
	printf("%.2f %% of the forms the host runs; %llu instances faulted; undefined flags differ in %llu\n", percent,
	       (unsigned long long)t.faults, (unsigned long long)t.undefined);
	if (!vendor_is_intel())
		printf("not Intel's processor: %llu instances not compared, of faults only where they are\n",
		       (unsigned long long)t.excluded);
	printf("%llu encodings the decoder refuses, %llu of them run by the host\n", (unsigned long long)t.refused,
	       (unsigned long long)t.refused_runs);
	printf("%llu instances, %llu differences\n", (unsigned long long)t.instances, (unsigned long long)t.different);
	rig_destroy(&o.rig);
	forms_free(&o.forms);
	return t.different || percent < 95 ? 1 : 0;
}
