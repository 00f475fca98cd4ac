#include "cli/output_gate.h"

#include "dev/virtio/console.h"

static int put_before(struct machine_config *m, struct gate *g)
{
	/* the debug console may be the first serial port's stream */
	bool own = m->debugcon;

	for (unsigned i = 0; i < MACHINE_SERIALS; i++) {
		own &= m->serial[i] != m->debugcon;
		if (m->serial[i] && gate_chr(g, m->serial[i]))
			return -1;
	}
	if (own && gate_chr(g, m->debugcon))
		return -1;
	for (unsigned i = 0; i < m->consoles; i++)
		if (m->console[i].chr && gate_chr(g, m->console[i].chr))
			return -1;
	for (unsigned i = 0; i < m->net_count; i++)
		if (gate_net(g, m->nets[i].net))
			return -1;
	return m->vsock && gate_vsock(g, m->vsock) ? -1 : 0;
}

int output_gate_create(struct machine_config *m, struct error *e)
{
	m->gate = gate_create();
	if (!m->gate || put_before(m, m->gate))
		return error_set(e, "not enough host memory");
	return 0;
}
