// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Pairs of connections that talk while somebody else's call does not get on.
 */
#ifndef PAIRS_H
#define PAIRS_H

#include "e2e.h"

#define ROUNDS 50

struct pair {
	struct connection client, service;
};

static inline struct pair new_pair(const struct bus *bus)
{
	return (struct pair) { hello(bus->path), hello(bus->path) };
}

static inline void pass(const struct pair *pair)
{
	EQ(SEND(&pair->client, .to = pair->service.id), 0);
	done(&pair->service, receive(&pair->service));
}

/* Until its calls may be served natively. */
static inline void make_known(const struct pair *pair)
{
	for (int i = 0; i < ROUNDS; i++)
		pass(pair);
}

/* Another process: its calls are served, on connections that it has had and on new ones. */
static inline void others_go_on(const struct bus *bus, const struct pair *known)
{
	pid_t child = start_child();

	if (!child) {
		struct pair fresh = new_pair(bus);

		for (int i = 0; i < ROUNDS; i++) {
			pass(known);
			pass(&fresh);
		}
		finish_child(0);
	}
	join(child);
}

#endif
