// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Requests and replies: who may reply, synchronous SEND in all the ways in which it can end, and signals that
 * interrupt it.
 */
#include "e2e.h"

struct pair {
	struct connection client, service;
};

static struct pair new_pair(const struct bus *bus)
{
	return (struct pair) { hello(bus->path), hello(bus->path) };
}

static int request(const struct pair *pair, __u64 cookie)
{
	return SEND(&pair->client, .to = pair->service.id, .cookie = cookie, .flags = KDBUS_MSG_EXPECT_REPLY,
		    .deadline = FOREVER);
}

/* A synchronous call; the command is left in `result` as it came back. */
static int call(const struct pair *pair, __u64 cookie, __u64 deadline, int cancel, struct kdbus_cmd_send *result)
{
	return SEND(&pair->client, .to = pair->service.id, .cookie = cookie, .flags = KDBUS_MSG_EXPECT_REPLY,
		    .send_flags = KDBUS_SEND_SYNC_REPLY, .deadline = deadline, .cancel = cancel, .result = result);
}

static int reply(const struct pair *pair, __u64 cookie)
{
	return SEND(&pair->service, .to = pair->client.id, .cookie = 1000 + cookie, .reply_to = cookie);
}

/* A thread that serves the other side of a call. */
struct helper {
	struct pair *pair;
	int event, value;
};

static pthread_t start(void *(*body)(void *), void *argument)
{
	pthread_t thread;

	CHECK(!pthread_create(&thread, NULL, body, argument));
	return thread;
}

static void end(pthread_t thread)
{
	CHECK(!pthread_join(thread, NULL));
}

#define CALLERS 4
#define CALLS 200

/* Signals and synchronous calls of several senders at once: the service sees all of them, each sender's in order. */
CASE(many_callers_wait_at_once)
{
	struct bus bus = new_bus(0);
	struct connection service = hello(bus.path);
	pid_t children[CALLERS];
	int calls = 0, messages = 0;

	for (int i = 0; i < CALLERS; i++) {
		children[i] = start_child();
		if (children[i])
			continue;
		struct pair pair = { hello(bus.path), service };
		struct kdbus_cmd_send result;

		for (__u64 cookie = 1; cookie <= CALLS; cookie++) {
			EQ(SEND(&pair.client, .to = service.id, .cookie = CALLS + cookie), 0);
			EQ(call(&pair, cookie, FOREVER, 0, &result), 0);
			EQ(((const struct kdbus_msg *)(pair.client.pool + result.reply.offset))->cookie_reply, cookie);
			EQ(release(&pair.client, result.reply.offset), 0);
		}
		finish_child(0);
	}
	while (calls < CALLERS * CALLS) {
		const struct kdbus_msg *message = await_message(&service);
		__u64 from = message->src_id, cookie = message->cookie;
		bool expected = message->flags & KDBUS_MSG_EXPECT_REPLY;

		done(&service, message);
		if (expected)
			EQ(SEND(&service, .to = from, .cookie = 1, .reply_to = cookie), 0);
		*(expected ? &calls : &messages) += 1;
	}
	EQ(messages, CALLERS * CALLS);
	for (int i = 0; i < CALLERS; i++)
		join(children[i]);
}

#define PAIRS 40
#define CALLS_OF_A_PAIR 60

/* Many conversations at once, each between two processes of its own. */
CASE(many_pairs_call_at_once)
{
	struct bus bus = new_bus(0);
	pid_t children[2 * PAIRS];
	int begin = new_event();

	for (int i = 0; i < PAIRS; i++) {
		struct pair pair = new_pair(&bus);

		children[2 * i] = start_child();
		if (!children[2 * i]) {
			struct kdbus_cmd_send result;

			await(begin);
			for (__u64 cookie = 1; cookie <= CALLS_OF_A_PAIR; cookie++) {
				EQ(call(&pair, cookie, FOREVER, 0, &result), 0);
				EQ(release(&pair.client, result.reply.offset), 0);
			}
			finish_child(0);
		}
		children[2 * i + 1] = start_child();
		if (!children[2 * i + 1]) {
			for (__u64 cookie = 1; cookie <= CALLS_OF_A_PAIR; cookie++) {
				const struct kdbus_msg *message = await_message(&pair.service);

				EQ(message->cookie, cookie);
				done(&pair.service, message);
				EQ(reply(&pair, cookie), 0);
			}
			finish_child(0);
		}
	}
	for (int i = 0; i < PAIRS; i++)
		post(begin);
	for (int i = 0; i < 2 * PAIRS; i++)
		join(children[i]);
}

CASE(only_expected_replies_pass)
{
	struct bus bus = new_bus(0);
	struct pair pair = new_pair(&bus);
	struct connection stranger = hello(bus.path);

	EQ(reply(&pair, 1), -EPERM);
	EQ(request(&pair, 1), 0);
	EQ(reply(&pair, 2), -EPERM);
	EQ(SEND(&stranger, .to = pair.client.id, .reply_to = 1), -EPERM);
	EQ(SEND(&pair.client, .to = pair.service.id, .reply_to = 1), -EPERM);
	EQ(reply(&pair, 1), 0);
	EQ(reply(&pair, 1), -EPERM);
	EQ(receive(&pair.client)->cookie, 1001);
	/* The same cookie twice is two requests. */
	EQ(request(&pair, 5), 0);
	EQ(request(&pair, 5), 0);
	EQ(reply(&pair, 5), 0);
	EQ(reply(&pair, 5), 0);
	EQ(reply(&pair, 5), -EPERM);
}

CASE(what_requests_need)
{
	struct bus bus = new_bus(0);
	struct pair pair = new_pair(&bus);
	__u64 to = pair.service.id;

	EQ(SEND(&pair.client, .to = to, .flags = KDBUS_MSG_EXPECT_REPLY, .deadline = FOREVER), -EINVAL);
	EQ(SEND(&pair.client, .to = to, .flags = KDBUS_MSG_EXPECT_REPLY, .cookie = 1), -EINVAL);
	EQ(SEND(&pair.client, .to = to, .send_flags = KDBUS_SEND_SYNC_REPLY, .cookie = 1), -EINVAL);
	EQ(SEND(&pair.client, .to = to, .cookie = 1, .send_flags = 2), -EINVAL);
	EQ(SEND(&pair.client, .to = to, .cookie = 1, .flags = 8), -EINVAL);
}

CASE(the_129th_request)
{
	struct bus bus = new_bus(0);
	struct connection client = hello(bus.path), services[9];
	int sent = 0;

	/* One receiver takes no more than 32 messages of one user. */
	for (int i = 0; i < 9; i++)
		services[i] = hello(bus.path);
	for (int i = 0; i < 8; i++)
		for (int j = 0; j < 16; j++)
			EQ(SEND(&client, .to = services[i].id, .cookie = (__u64)++sent, .flags = KDBUS_MSG_EXPECT_REPLY,
				.deadline = FOREVER), 0);
	EQ(SEND(&client, .to = services[8].id, .cookie = 200, .flags = KDBUS_MSG_EXPECT_REPLY, .deadline = FOREVER), -EMLINK);
	EQ(SEND(&client, .to = services[8].id, .cookie = 200), 0);
	/* An answered request counts until the request itself has been received. */
	EQ(SEND(&services[0], .to = client.id, .reply_to = 1), 0);
	EQ(SEND(&client, .to = services[8].id, .cookie = 200, .flags = KDBUS_MSG_EXPECT_REPLY, .deadline = FOREVER), -EMLINK);
	EQ(receive_code(&services[0], 0), 0);
	EQ(SEND(&client, .to = services[8].id, .cookie = 200, .flags = KDBUS_MSG_EXPECT_REPLY, .deadline = FOREVER), 0);
	EQ(SEND(&client, .to = services[8].id, .cookie = 201, .flags = KDBUS_MSG_EXPECT_REPLY, .deadline = FOREVER), -EMLINK);
}

static void *answer(void *argument)
{
	struct helper *helper = argument;
	const struct kdbus_msg *message = await_message(&helper->pair->service);

	EQ(message->flags, KDBUS_MSG_EXPECT_REPLY);
	EQ(SEND(&helper->pair->service, .to = message->src_id, .cookie = 9, .reply_to = message->cookie,
		.payload = "the answer", .size = 11), 0);
	done(&helper->pair->service, message);
	return NULL;
}

struct waiting_call {
	int fd, result;
	struct kdbus_cmd_send *command;
};

static void *make_call(void *argument)
{
	struct waiting_call *waiting = argument;

	waiting->result = command(waiting->fd, KDBUS_CMD_SEND, waiting->command);
	return NULL;
}

CASE(a_synchronous_call)
{
	struct bus bus = new_bus(0);
	struct pair pair = new_pair(&bus);
	struct helper helper = { .pair = &pair };

	for (__u64 cookie = 1; cookie <= 50; cookie++) {
		pthread_t thread = start(answer, &helper);
		struct kdbus_cmd_send result;
		const struct kdbus_msg *message;

		EQ(call(&pair, cookie, in_ms(PATIENCE), 0, &result), 0);
		end(thread);
		message = (const void *)(pair.client.pool + result.reply.offset);
		EQ(result.reply.msg_size, ALIGN8(message->size));
		EQ(result.reply.return_flags, 0);
		EQ(message->cookie_reply, cookie);
		EQ(message->cookie, 9);
		EQ(message->src_id, pair.service.id);
		SAME(text_of(&pair.client, message), "the answer");
		/* The reply never was in the queue. */
		EQ(readiness(pair.client.fd), POLLOUT);
		EQ(release(&pair.client, result.reply.offset), 0);
	}
}

/* Of a command, nothing but its results is stored: what else stands there may be changed while the call waits. */
CASE(a_command_that_changes_while_it_waits)
{
	struct bus bus = new_bus(0);
	struct pair pair = new_pair(&bus);

	for (__u64 cookie = 1; cookie <= 60; cookie++) {
		struct kdbus_cmd_send send = { .size = sizeof(send), .flags = KDBUS_SEND_SYNC_REPLY };
		struct waiting_call waiting = { .fd = pair.client.fd, .command = &send };
		const struct kdbus_msg *message;
		struct buffer letter;
		pthread_t thread;

		write_letter(&(struct letter) { .to = pair.service.id, .cookie = cookie, .flags = KDBUS_MSG_EXPECT_REPLY,
						.deadline = in_ms(PATIENCE) }, &letter);
		send.msg_address = (uintptr_t)letter.words;
		thread = start(make_call, &waiting);
		message = await_message(&pair.service);
		*(volatile __u64 *)&send.msg_address = cookie;
		EQ(SEND(&pair.service, .to = message->src_id, .cookie = 9, .reply_to = cookie), 0);
		done(&pair.service, message);
		end(thread);
		EQ(waiting.result, 0);
		EQ(send.msg_address, cookie);
		EQ(release(&pair.client, send.reply.offset), 0);
	}
}

/* As for all commands: what fails leaves in its results what the program had there. */
CASE(results_of_a_synchronous_call)
{
	struct bus bus = new_bus(0);
	struct pair pair = new_pair(&bus);
	struct helper helper = { .pair = &pair };

	for (__u64 cookie = 1; cookie <= 60; cookie++) {
		struct kdbus_cmd_send send = { .size = sizeof(send), .flags = KDBUS_SEND_SYNC_REPLY };
		bool answered = cookie % 12;
		struct buffer message;
		pthread_t thread;

		send.return_flags = 7;
		send.reply.offset = 8 * 4096 + 1;
		write_letter(&(struct letter) { .to = pair.service.id, .cookie = cookie, .flags = KDBUS_MSG_EXPECT_REPLY,
						.deadline = in_ms(answered ? PATIENCE : 5) }, &message);
		send.msg_address = (uintptr_t)message.words;
		if (answered)
			thread = start(answer, &helper);
		EQ(command(pair.client.fd, KDBUS_CMD_SEND, &send), answered ? 0 : -ETIMEDOUT);
		EQ(send.return_flags, answered ? 0 : 7);
		if (answered) {
			end(thread);
			EQ(release(&pair.client, send.reply.offset), 0);
		} else {
			EQ(send.reply.offset, 8 * 4096 + 1);
			EQ(receive_code(&pair.service, 0), 0);
		}
	}
}

CASE(a_call_that_is_not_answered)
{
	struct bus bus = new_bus(0);
	struct pair pair = new_pair(&bus);
	__u64 deadline = in_ms(30);

	EQ(call(&pair, 1, deadline, 0, NULL), -ETIMEDOUT);
	GE(clock_ns(CLOCK_MONOTONIC), deadline);
	/* It was sent, but is no longer expected; and nobody is notified. */
	EQ(receive(&pair.service)->cookie, 1);
	EQ(reply(&pair, 1), -EPERM);
	EQ(receive_code(&pair.client, 0), -EAGAIN);
	EQ(call(&pair, 2, 1, 0, NULL), -ETIMEDOUT);
	EQ(receive(&pair.service)->cookie, 2);
}

static void *drop_it(void *argument)
{
	struct helper *helper = argument;

	wait_for(helper->pair->service.fd, POLLIN);
	EQ(receive_code(&helper->pair->service, KDBUS_RECV_DROP), 0);
	return NULL;
}

static void *leave(void *argument)
{
	struct helper *helper = argument;

	await_message(&helper->pair->service);
	EQ(byebye(&helper->pair->service), 0);
	return NULL;
}

static void *close_it(void *argument)
{
	struct helper *helper = argument;

	wait_for(helper->pair->service.fd, POLLIN);
	CHECK(!close(helper->pair->service.fd));
	return NULL;
}

CASE(a_call_whose_peer_goes)
{
	void *(*const ways[])(void *) = { drop_it, leave, close_it };
	struct bus bus = new_bus(0);

	for (int i = 0; i < 3; i++) {
		struct pair pair = new_pair(&bus);
		struct helper helper = { .pair = &pair };
		pthread_t thread = start(ways[i], &helper);

		EQ(call(&pair, 1, in_ms(PATIENCE), 0, NULL), -EPIPE);
		end(thread);
		/* For a request that nobody has received there is a notification as well. */
		EQ(receive_code(&pair.client, 0), ways[i] == close_it ? 0 : -EAGAIN);
	}
}

static void *leave_the_caller(void *argument)
{
	struct helper *helper = argument;

	wait_for(helper->pair->service.fd, POLLIN);
	EQ(byebye(&helper->pair->client), 0);
	return NULL;
}

CASE(a_call_whose_own_connection_ends)
{
	struct bus bus = new_bus(0);
	struct pair pair = new_pair(&bus);
	struct helper helper = { .pair = &pair };
	pthread_t thread = start(leave_the_caller, &helper);

	EQ(call(&pair, 1, in_ms(PATIENCE), 0, NULL), -ECONNRESET);
	end(thread);
	EQ(receive(&pair.service)->cookie, 1);
}

static void *close_the_bus(void *argument)
{
	struct helper *helper = argument;

	wait_for(helper->pair->service.fd, POLLIN);
	CHECK(!close(helper->value));
	return NULL;
}

CASE(a_call_whose_bus_ends)
{
	struct bus bus = new_bus(0);
	struct pair pair = new_pair(&bus);
	struct helper helper = { .pair = &pair, .value = bus.fd };
	pthread_t thread = start(close_the_bus, &helper);
	int result = call(&pair, 1, in_ms(PATIENCE), 0, NULL);

	end(thread);
	/* Whichever of the two connections ends first. */
	CHECK(result == -EPIPE || result == -ECONNRESET);
}

static void *cancel_it(void *argument)
{
	struct helper *helper = argument;

	wait_for(helper->pair->service.fd, POLLIN);
	post(helper->event);
	return NULL;
}

CASE(a_call_that_is_cancelled)
{
	struct bus bus = new_bus(0);
	struct pair pair = new_pair(&bus);
	struct helper helper = { .pair = &pair, .event = new_event() };
	pthread_t thread = start(cancel_it, &helper);

	EQ(call(&pair, 1, in_ms(PATIENCE), helper.event, NULL), -ECANCELED);
	end(thread);
	EQ(receive(&pair.service)->cookie, 1);
	EQ(reply(&pair, 1), -EPERM);
	/* Already readable: it is cancelled at once, but sent. */
	EQ(call(&pair, 2, in_ms(PATIENCE), helper.event, NULL), -ECANCELED);
	EQ(receive(&pair.service)->cookie, 2);
}

CASE(cancel_descriptors)
{
	struct bus bus = new_bus(0);
	struct pair pair = new_pair(&bus);
	struct helper helper = { .pair = &pair };
	int event = new_event(), ends[2];
	struct buffer message, buffer;
	struct kdbus_cmd_send *send;
	pthread_t thread;

	/* One that never becomes readable does no harm, and may be anything that can be polled. */
	CHECK(!pipe(ends));
	thread = start(answer, &helper);
	EQ(call(&pair, 1, in_ms(PATIENCE), ends[0], NULL), 0);
	end(thread);
	EQ(call(&pair, 2, in_ms(PATIENCE), open("/proc/self/exe", O_RDONLY), NULL), -EINVAL);
	EQ(call(&pair, 3, in_ms(PATIENCE), 1000, NULL), -EBADF);
	/* Of nodes, endpoints can be polled, however they were opened, and the control node cannot. */
	EQ(call(&pair, 2, in_ms(PATIENCE), bus.fd, NULL), -EINVAL);
	EQ(call(&pair, 2, in_ms(PATIENCE), open(ROOT "/control", O_RDONLY), NULL), -EINVAL);
	EQ(call(&pair, 2, in_ms(1), open(bus.path, O_RDONLY), NULL), -ETIMEDOUT);
	EQ(receive_code(&pair.service, 0), 0);
	/* Only a synchronous call looks at it. */
	EQ(SEND(&pair.client, .to = pair.service.id, .cookie = 4, .cancel = 1000), 0);
	write_letter(&(struct letter) { .to = pair.service.id, .cookie = 5, .flags = KDBUS_MSG_EXPECT_REPLY,
					.deadline = in_ms(PATIENCE) }, &message);
	send = begin(&buffer, sizeof(*send));
	send->flags = KDBUS_SEND_SYNC_REPLY;
	send->msg_address = (uintptr_t)message.words;
	add(&buffer, KDBUS_ITEM_CANCEL_FD, &event, sizeof(event));
	add(&buffer, KDBUS_ITEM_CANCEL_FD, &event, sizeof(event));
	EQ(command(pair.client.fd, KDBUS_CMD_SEND, send), -EEXIST);
	send = begin(&buffer, sizeof(*send));
	send->msg_address = (uintptr_t)message.words;
	add_u64(&buffer, KDBUS_ITEM_ID, 1);
	EQ(command(pair.client.fd, KDBUS_CMD_SEND, send), -EINVAL);
	send = begin(&buffer, sizeof(*send));
	send->msg_address = (uintptr_t)message.words;
	add_u64(&buffer, KDBUS_ITEM_CANCEL_FD, 1);
	EQ(command(pair.client.fd, KDBUS_CMD_SEND, send), -EINVAL);
}

static void *refused_descriptors(void *argument)
{
	struct helper *helper = argument;
	const struct kdbus_msg *message = await_message(&helper->pair->service);

	EQ(SEND(&helper->pair->service, .to = message->src_id, .reply_to = message->cookie, .fds = &helper->event,
		.fd_count = 1), -ECOMM);
	EQ(reply(helper->pair, message->cookie), -EPERM);
	return NULL;
}

CASE(a_reply_with_descriptors_that_the_caller_refuses)
{
	struct bus bus = new_bus(0);
	struct pair pair = { hello_with(bus.path, 0, _KDBUS_ATTACH_ALL, 0), hello(bus.path) };
	struct helper helper = { .pair = &pair, .event = new_event() };
	pthread_t thread = start(refused_descriptors, &helper);

	EQ(call(&pair, 1, in_ms(PATIENCE), 0, NULL), -EREMOTEIO);
	end(thread);
}

static volatile sig_atomic_t signals;

static void count_signal(int number)
{
	signals += number == SIGUSR1;
}

static void catch_signals(int flags)
{
	struct sigaction action = { .sa_handler = count_signal, .sa_flags = flags };

	CHECK(!sigaction(SIGUSR1, &action, NULL));
}

struct interrupted {
	struct helper helper;
	pthread_t caller;
	bool reply;
};

static void *interrupt(void *argument)
{
	struct interrupted *work = argument;
	const struct pair *pair = work->helper.pair;
	const struct kdbus_msg *message = await_message(&pair->service);

	/* The request is here, so the caller waits, or is about to. */
	for (int i = 1; i <= 5; i++) {
		CHECK(!pthread_kill(work->caller, SIGUSR1));
		if (!work->reply)
			break;
		while (signals < i)
			sched_yield();
	}
	if (work->reply)
		EQ(SEND(&pair->service, .to = message->src_id, .reply_to = message->cookie, .cookie = 77), 0);
	return NULL;
}

CASE(a_signal_whose_handler_restarts_the_call)
{
	struct bus bus = new_bus(0);
	struct pair pair = new_pair(&bus);
	struct interrupted work = { .helper.pair = &pair, .caller = pthread_self(), .reply = true };
	struct kdbus_cmd_send result;
	pthread_t thread;

	catch_signals(SA_RESTART);
	thread = start(interrupt, &work);
	EQ(call(&pair, 1, in_ms(PATIENCE), 0, &result), 0);
	end(thread);
	EQ(signals, 5);
	EQ(((const struct kdbus_msg *)(pair.client.pool + result.reply.offset))->cookie, 77);
	/* It was sent once. */
	EQ(receive_code(&pair.service, 0), -EAGAIN);
}

CASE(a_signal_that_interrupts_the_call)
{
	struct bus bus = new_bus(0);
	struct pair pair = new_pair(&bus);
	struct interrupted work = { .helper.pair = &pair, .caller = pthread_self() };
	pthread_t thread;

	catch_signals(0);
	thread = start(interrupt, &work);
	EQ(call(&pair, 1, in_ms(PATIENCE), 0, NULL), -EINTR);
	end(thread);
	EQ(signals, 1);
}

static void *call_of_another_thread(void *argument)
{
	struct helper *helper = argument;
	struct kdbus_cmd_send result;
	const struct kdbus_msg *message;

	EQ(call(helper->pair, (__u64)helper->value, in_ms(PATIENCE), 0, &result), 0);
	message = (const void *)(helper->pair->client.pool + result.reply.offset);
	EQ(message->cookie_reply, helper->value);
	EQ(message->cookie, 1000 + helper->value);
	return NULL;
}

CASE(many_threads_call_on_one_connection)
{
	enum { THREADS = 8 };
	struct bus bus = new_bus(0);
	struct pair pair = new_pair(&bus);
	struct helper helpers[THREADS];
	pthread_t threads[THREADS];
	__u64 cookies[THREADS];

	for (int i = 0; i < THREADS; i++) {
		helpers[i] = (struct helper) { .pair = &pair, .value = i + 1 };
		threads[i] = start(call_of_another_thread, &helpers[i]);
	}
	for (int i = 0; i < THREADS; i++)
		cookies[i] = await_message(&pair.service)->cookie;
	/* Answered in another order than asked. */
	for (int i = THREADS - 1; i >= 0; i--)
		EQ(reply(&pair, cookies[i]), 0);
	for (int i = 0; i < THREADS; i++)
		end(threads[i]);
}

CASE(calling_oneself)
{
	struct bus bus = new_bus(0);
	struct connection self = hello(bus.path);
	struct pair pair = { self, self };
	struct helper helper = { .pair = &pair };
	pthread_t thread = start(answer, &helper);

	EQ(call(&pair, 1, in_ms(PATIENCE), 0, NULL), 0);
	end(thread);
	EQ(SEND(&self, .to = self.id, .cookie = 3), 0);
	EQ(receive(&self)->cookie, 3);
}

CASE(killing_a_caller_that_waits)
{
	struct bus bus = new_bus(0);
	struct connection service = hello(bus.path);
	const struct kdbus_msg *message;
	pid_t child = start_child();
	int status;

	if (!child) {
		struct pair pair = { hello(bus.path), service };

		call(&pair, 1, FOREVER, 0, NULL);
		_exit(1);
	}
	message = await_message(&service);
	EQ(match_id(&service, 1, KDBUS_ITEM_ID_REMOVE, message->src_id), 0);
	CHECK(!kill(child, SIGKILL));
	EQ(waitpid(child, &status, 0), child);
	CHECK(WIFSIGNALED(status));
	EQ(get(await_message(&service), KDBUS_ITEM_ID_REMOVE)->id_change.id, message->src_id);
	EQ(SEND(&service, .to = message->src_id, .reply_to = 1), -ENXIO);
}
