/*
 * Inside the AHCI controller: ahci.c has its registers, ahci_command.c command
 * slots and FISes, ahci_dma.c the guest's memory, ahci_state.c what is saved,
 * ata.c the commands of disks, atapi.c those of CD-ROM drives.
 *
 * A command goes ata_start() or atapi_start() -> any number of ahci_submit(),
 * each followed by ata_step() or atapi_step() -> ahci_finish().
 */
#ifndef ECTYPE_DEV_STORAGE_AHCI_INTERNAL_H
#define ECTYPE_DEV_STORAGE_AHCI_INTERNAL_H

#include <pthread.h>

#include "dev/storage/ahci.h"

#define AHCI_SLOTS 32
#define AHCI_PIECES 1024 /* of guest memory, in one command */
#define SECTOR BLOCK_SECTOR
#define CD_SECTOR 2048u
#define TRIM_BLOCKS 8u /* of 512 bytes, 64 ranges each */

/* ATA status and error registers (ATA8-ACS, 6) */
enum { ATA_BSY = 0x80, ATA_DRDY = 0x40, ATA_DSC = 0x10, ATA_DRQ = 0x08, ATA_ERR = 0x01 };
enum { ATA_UNC = 0x40, ATA_IDNF = 0x10, ATA_ABRT = 0x04 };
#define ATA_GOOD (ATA_DRDY | ATA_DSC)

/* Registers of the controller and of a port, as far as others than ahci.c use them (AHCI 1.3.1, 3.1.2 and 3.3) */
#define GHC_IE 0x00000002u
#define GHC_AE 0x80000000u
#define PORT_ST 0x00000001u /* PxCMD */
#define PORT_FRE 0x00000010u
#define PORT_ATAPI 0x01000000u
#define PORT_CMD_WRITABLE (PORT_ST | PORT_FRE | PORT_ATAPI)
#define IS_DHRS 0x00000001u /* PxIS */
#define IS_PSS 0x00000002u
#define IS_SDBS 0x00000008u
#define IS_PCS 0x00000040u /* follows SERR.DIAG.X */
#define IS_HBFS 0x20000000u
#define IS_TFES 0x40000000u
#define IS_ALL 0xfdc000ffu
#define SERR_X 0x04000000u
#define TFD_NO_DEVICE 0x7fu
#define SIG_NO_DEVICE 0xffffffffu

struct ahci;
struct ahci_port;

/* The task file as a command FIS brings it, or as a FIS to the host gives it (SATA 3.0, 10.3.4 and 10.3.5). */
struct ata_regs {
	u8 command, device, control;
	u16 features, count;
	u64 lba; /* 48 bits */
};

/* A command with the drive. */
struct ahci_slot {
	struct block_request block;
	struct ahci_port *port;
	struct ahci_slot *next; /* of the done ones */
	int error;		/* of the step */
	u8 tag;
	bool queued; /* NCQ */
	bool steps;  /* the backend has to do with it */
	bool pio, to_guest;
	bool fua;
	struct ata_regs in, out;
	u8 packet[16];
	gpa_t header, table;
	u16 prds;
	u32 moved; /* bytes, for the header's PRDBC */
	/* the ranges of a TRIM that are still to do */
	u8 trim[TRIM_BLOCKS * 512];
	unsigned trim_at, trim_len;
	unsigned pieces;
	struct iovec iov[AHCI_PIECES];
	gpa_t gpa[AHCI_PIECES];
};

struct ahci_port {
	struct ahci *hba;
	unsigned index;
	struct ahci_drive drive;
	u64 sectors; /* of 512 bytes, or of 2048 for a CD-ROM drive */
	struct disk_stats stats;
	int logged;  /* error of the last line in the log */
	u32 flying;  /* commands with the backend */
	u32 started; /* commands that are being worked on; those of `issued` and `accepted` not here are to be started
		      */
	struct ahci_slot *slot; /* AHCI_SLOTS of them */
	/* ---- saved ---- */
	u32 clb, clbu, fb, fbu, is, ie, cmd, tfd, sig, sctl, serr, sact;
	u32 issued;   /* PxCI */
	u32 accepted; /* NCQ commands: their bit in PxCI is clear already */
	bool halted;  /* an error waits for the host to clear ST */
	bool srst;
	/* of disks */
	bool write_cache;
	u8 transfer_mode;		   /* as SET FEATURES names it */
	u8 log_tag, log_status, log_error; /* the last failed NCQ command, for log 10h */
	u64 log_lba;
	/* of CD-ROM drives */
	bool tray_open, locked;
	u8 sense_key, asc, ascq;
};

struct ahci {
	struct device dev;
	struct memory *mem;
	struct pci_dev pci;
	struct door *door;
	int source;
	bool synchronous;
	struct ahci_port port[AHCI_PORTS];
	u32 ghc; /* saved */

	pthread_mutex_t lock;
	struct ahci_slot *done, **done_tail;
	bool loading; /* the registers are not all there: no command starts */
	bool inside;  /* the vCPU thread will look at the list: no signal needed */
};

/* ---- ahci_dma.c: the guest's memory. Only RAM is touched: a device is no target ---- */

bool ahci_get(struct ahci *h, gpa_t gpa, void *to, u32 n);
bool ahci_put(struct ahci *h, gpa_t gpa, const void *from, u32 n);
/* Finds the first `bytes` that the command's PRD table describes. False if it describes less, in too many pieces, or
 * what is not RAM. */
bool ahci_map(struct ahci_slot *s, u32 bytes);
/* Bytes that the PRD table describes, at most `max`. */
u32 ahci_room(struct ahci_slot *s, u32 max);
/* Copies between the mapped memory and a buffer; engines are told. */
void ahci_copy_in(struct ahci_slot *s, const void *from, u32 n);
void ahci_copy_out(struct ahci_slot *s, void *to, u32 n);
/* The backend has written the mapped memory: engines are told. */
void ahci_arrived(struct ahci_slot *s);

/* ---- ahci.c ---- */

void ahci_update_irq(struct ahci *h);

/* ---- ahci_command.c ---- */

static inline bool ahci_present(const struct ahci_port *p)
{
	return p->drive.image;
}
/* Starts what can be started and ends what is done, until there is nothing more of both. */
void ahci_work(struct ahci *h);
/* Forgets all commands of a port. Guest memory is not touched any more when it returns. */
void ahci_abort(struct ahci_port *p);
/* The link comes up and the drive sends its signature, or there is none. */
void ahci_link_up(struct ahci_port *p);

/* A step of the backend. Offset and length are multiples of SECTOR within the image. READ and WRITE use what
 * ahci_map() found. */
void ahci_submit(struct ahci_slot *s, enum block_op op, u64 offset, u64 length);
/* The end of a command: FISes to the host, interrupt bits. s->out has the registers but for `status` and `error`;
 * s->moved what was transferred. */
void ahci_finish(struct ahci_slot *s, u8 status, u8 error);
void ahci_log_error(struct ahci_port *p, const char *what, int error);
/* The drive's signature in `r` (ATA8-ACS, 9.12). */
void ahci_signature(const struct ahci_port *p, struct ata_regs *r);

/* ---- ahci_state.c: of struct device_ops ---- */

void ahci_save(const struct device *d, struct encoder *e);
int ahci_check(const struct device *d, struct decoder *in);
void ahci_load(struct device *d, struct decoder *in);

/* ---- ata.c, atapi.c ---- */

void ata_reset(struct ahci_port *p);
void ata_start(struct ahci_slot *s);
void ata_step(struct ahci_slot *s);
bool ata_is_queued(u8 command);
/* Text for IDENTIFY: two bytes a word, the first one high; padded with blanks. */
void ata_text(u8 *to, unsigned len, const char *text);
/* Drive's serial number; `to` has AHCI_SERIAL_LEN + 1 bytes. */
void ata_serial(const struct ahci_port *p, char *to);
/* Gives `n` bytes by PIO, or what there is room for, and ends the command. */
void ata_reply_pio(struct ahci_slot *s, const void *data, u32 n);
/* Commands both have. */
bool ata_common(struct ahci_slot *s);

void atapi_reset(struct ahci_port *p);
void atapi_start(struct ahci_slot *s);
void atapi_step(struct ahci_slot *s);

static inline void ata_put16(u8 *words, unsigned word, u32 v)
{
	words[2 * word] = (u8)v;
	words[2 * word + 1] = (u8)(v >> 8);
}

#endif
