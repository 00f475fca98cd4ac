#include "dev/device.h"

void board_attach(struct board *b, struct device *d)
{
	if (!b->tail)
		b->tail = &b->first;
	d->next = NULL;
	*b->tail = d;
	b->tail = &d->next;
}
