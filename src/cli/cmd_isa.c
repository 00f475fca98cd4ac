/*
 * `ectype isa [--json] [--class C] [--sensitive]`: prints the instruction
 * table that the engines are built from, with the Popek-Goldberg class of each
 * row and the counts of what breaks their theorem on x86.
 */
#include "cli/cmd_isa.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "isa/isa.h"

#define METHODS (METHOD_UD + 1)
#define CLASSES (CLASS_BEHAVIOUR_SENSITIVE + 1)

struct options {
	bool json, sensitive;
	int class; /* -1: all */
};

struct counts {
	unsigned rows, class[CLASSES], method[METHODS];
	unsigned classical_rows, modern_rows;
	unsigned classical; /* entries of the classical list */
	bool listed[ISA_LIST_modern + 1];
};

static const char *const list_names[] = {
	[ISA_LIST_none] = "",
#define X(name) [ISA_LIST_##name] = #name,
	ISA_CLASSICAL(X)
#undef X
	    [ISA_LIST_modern] = "later",
};

static const char usage[] =
    "usage: ectype isa [--json] [--class CLASS] [--sensitive]\n"
    "  --class CLASS  only innocuous, privileged, control-sensitive or behaviour-sensitive ones\n"
    "  --sensitive    only those that are sensitive yet unprivileged\n"
    "  --json         one JSON object: {\"rows\": [...], \"counts\": {...}}\n";

static int bad_usage(const char *what, const char *arg)
{
	fprintf(stderr, "ectype isa: %s '%s' (try 'ectype isa --help')\n", what, arg);
	return 2;
}

static int parse_class(const char *s)
{
	for (int c = 0; c < CLASSES; c++)
		if (strcmp(s, isa_class_name((unsigned)c)) == 0)
			return c;
	return -1;
}

/* Every row but that of failed decodes. */
static bool shown(const struct isa_row *r, const struct options *o)
{
	if (r->mnemonic == 0)
		return false;
	if (o->sensitive && !r->sensitive_unprivileged)
		return false;
	return o->class < 0 || r->class == o->class;
}

static void count(struct counts *c)
{
	const struct isa_row *r;

	memset(c, 0, sizeof(*c));
	for (unsigned n = 0; (r = isa_row_at(n)); n++) {
		if (r->mnemonic == 0)
			continue;
		c->rows++;
		c->class[r->class]++;
		c->method[r->method]++;
		if (r->list == ISA_LIST_modern)
			c->modern_rows++;
		else if (r->list != ISA_LIST_none)
			c->classical_rows++;
		if (r->list != ISA_LIST_none && r->list != ISA_LIST_modern && !c->listed[r->list]) {
			c->listed[r->list] = true;
			c->classical++;
		}
	}
}

static void print_text(const struct options *o)
{
	const struct isa_row *r;
	struct counts c;

	printf("%-20s %-20s %-6s %-14s %s\n", "INSTRUCTION", "CLASS", "METHOD", "SHARED CODE",
	       "SENSITIVE YET UNPRIVILEGED: LISTED AS, WHY");
	for (unsigned n = 0; (r = isa_row_at(n)); n++) {
		if (!shown(r, o))
			continue;
		if (r->sensitive_unprivileged)
			printf("%-20s %-20s %-6s %-14s * %s: %s\n", r->name, isa_class_name(r->class),
			       isa_method_name(r->method), isa_sys_name(r->sys), list_names[r->list], r->note);
		else if (r->method == METHOD_SYS)
			printf("%-20s %-20s %-6s %s\n", r->name, isa_class_name(r->class), isa_method_name(r->method),
			       isa_sys_name(r->sys));
		else
			printf("%-20s %-20s %s\n", r->name, isa_class_name(r->class), isa_method_name(r->method));
	}
	count(&c);
	printf("\n%u rows:", c.rows);
	for (unsigned i = 0; i < CLASSES; i++)
		printf("%s %u %s", i ? "," : "", c.class[i], isa_class_name(i));
	printf("\nmethods:");
	for (unsigned i = 0; i < METHODS; i++)
		printf("%s %u %s", i ? "," : "", c.method[i], isa_method_name(i));
	printf("\nsensitive yet unprivileged (*): %u rows\n", c.classical_rows + c.modern_rows);
	printf("  the classical \"seventeen\" of Robin and Irvine (2000): %u rows, %u names:", c.classical_rows,
	       c.classical);
	for (unsigned i = 1; i < ISA_LIST_modern; i++)
		printf(" %s", list_names[i]);
	printf("\n  later additions and others not in that list: %u rows\n", c.modern_rows);
}

static json_t *json_counts(void)
{
	struct counts c;
	json_t *class = json_object(), *method = json_object();

	count(&c);
	for (unsigned i = 0; i < CLASSES; i++)
		json_object_set_new(class, isa_class_name(i), json_integer(c.class[i]));
	for (unsigned i = 0; i < METHODS; i++)
		json_object_set_new(method, isa_method_name(i), json_integer(c.method[i]));
	return json_pack("{s:i, s:o, s:o, s:i, s:i, s:i, s:i}", "rows", c.rows, "class", class, "method", method,
			 "sensitive_unprivileged", c.classical_rows + c.modern_rows, "classical_rows", c.classical_rows,
			 "classical_instructions", c.classical, "later_rows", c.modern_rows);
}

static int print_json(const struct options *o)
{
	json_t *rows = json_array(), *top;
	const struct isa_row *r;
	int ret;

	for (unsigned n = 0; (r = isa_row_at(n)); n++) {
		json_t *row;

		if (!shown(r, o))
			continue;
		row = json_pack("{s:s, s:s, s:s, s:b}", "name", r->name, "class", isa_class_name(r->class), "method",
				isa_method_name(r->method), "sensitive_unprivileged", (int)r->sensitive_unprivileged);
		if (r->method == METHOD_SYS)
			json_object_set_new(row, "sys", json_string(isa_sys_name(r->sys)));
		if (r->sensitive_unprivileged) {
			json_object_set_new(row, "listed_as", json_string(list_names[r->list]));
			json_object_set_new(row, "note", json_string(r->note));
		}
		json_array_append_new(rows, row);
	}
	top = json_pack("{s:o, s:o}", "rows", rows, "counts", json_counts());
	ret = top ? json_dumpf(top, stdout, JSON_INDENT(1)) : -1;
	putchar('\n');
	json_decref(top);
	return ret;
}

int cmd_isa(int argc, char **argv)
{
	struct options o = { .class = -1 };
	int ret = 0;

	for (int i = 1; i < argc; i++) {
		const char *class = NULL;

		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
			fputs(usage, stdout);
			return 0;
		} else if (strcmp(argv[i], "--json") == 0) {
			o.json = true;
		} else if (strcmp(argv[i], "--sensitive") == 0) {
			o.sensitive = true;
		} else if (strncmp(argv[i], "--class=", 8) == 0) {
			class = argv[i] + 8;
		} else if (strcmp(argv[i], "--class") == 0) {
			if (++i == argc)
				return bad_usage("missing class after", "--class");
			class = argv[i];
		} else {
			return bad_usage("unknown argument", argv[i]);
		}
		if (class) {
			o.class = parse_class(class);
			if (o.class < 0)
				return bad_usage("no such class", class);
		}
	}
	if (o.json)
		ret = print_json(&o);
	else
		print_text(&o);
	if (ret || fflush(stdout) || ferror(stdout)) {
		fprintf(stderr, "ectype isa: cannot write to standard output\n");
		return 1;
	}
	return 0;
}
