// SPDX-License-Identifier: GPL-2.0-or-later

// A client and a service in Go, by nothing but system calls: `conversation ROUNDS`.
//
// What is special here is Go's runtime. There is no C library; goroutines wander between threads; and whoever runs for
// long gets a signal, so that calls are interrupted. A third goroutine makes garbage meanwhile, for there to be many of
// these signals. It prints how many answers came. Commands and messages are arrays of words, as all their fields are.
package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"
)

const (
	cmdBusMake = 0x40209500
	cmdHello   = 0xc0689520
	cmdSend    = 0xc0489530
	cmdRecv    = 0xc0489531
	cmdFree    = 0x40289532

	itemPayloadVec = 1
	itemPayloadOff = 2
	itemBloom      = 6
	itemMakeName   = 10

	expectReply = 1
	syncReply   = 1
	forever     = 1<<63 - 1
	poolSize    = 1 << 20

	// Positions of words.
	msgFlags, msgSource, msgCookie, msgItems = 1, 4, 6, 8
	sendReplyOffset, recvOffset, helloID     = 6, 6, 7
)

type peer struct {
	fd   int
	id   uint64
	pool []byte
}

func fail(what string, err error) {
	fmt.Printf("%s: %v\n", what, err)
	os.Exit(1)
}

// An interrupted call is made again, as the wrappers of Go's own packages do.
func command(fd int, request uintptr, words []uint64) syscall.Errno {
	words[0] = uint64(8 * len(words))
	for {
		_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(&words[0])))
		if errno != syscall.EINTR {
			return errno
		}
	}
}

func must(fd int, request uintptr, words []uint64) {
	if errno := command(fd, request, words); errno != 0 {
		fail(fmt.Sprintf("ioctl %#x", request), errno)
	}
}

func open(path string) int {
	fd, err := syscall.Open(path, syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		fail(path, err)
	}
	return fd
}

func makeBus(name string) {
	text := make([]uint64, len(name)/8+1)
	copy((*[1 << 10]byte)(unsafe.Pointer(&text[0]))[:8*len(text):8*len(text)], name)
	words := []uint64{0, 0, 0, 0, 32, itemBloom, 64, 1, uint64(16 + len(name) + 1), itemMakeName}
	must(open("/sys/fs/kdbus/control"), cmdBusMake, append(words, text...))
}

func connect(path string) *peer {
	fd := open(path)
	words := []uint64{0, 0, 0, 0, 0, 0, 0, 0, poolSize, 0, 0, 0, 0}
	must(fd, cmdHello, words)
	pool, err := syscall.Mmap(fd, 0, poolSize, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		fail("mmap", err)
	}
	return &peer{fd, words[helloID], pool}
}

func (p *peer) word(offset uint64) uint64 {
	return *(*uint64)(unsafe.Pointer(&p.pool[offset]))
}

// The message at `offset`: its payload.
func (p *peer) payload(message uint64) []byte {
	end := message + p.word(message)
	for item := message + 8*msgItems; item < end; item += (p.word(item) + 7) &^ 7 {
		if p.word(item+8) == itemPayloadOff {
			start := p.word(item + 24)
			return p.pool[start : start+p.word(item+16)]
		}
	}
	fail("message", syscall.ENOMSG)
	return nil
}

func (p *peer) free(offset uint64) {
	must(p.fd, cmdFree, []uint64{0, offset, 0, 0, 0})
}

// Sends `text`; where the answer is, if `flags` ask for one. The collector does not move what is on the heap.
func (p *peer) send(to, cookie, flags, deadline uint64, text []byte) uint64 {
	words := []uint64{0, flags, 0, to, 0, 7, cookie, deadline, 32, itemPayloadVec, uint64(len(text)), 0}
	words[0] = uint64(8 * len(words))
	words[11] = uint64(uintptr(unsafe.Pointer(&text[0])))
	call := []uint64{0, flags & expectReply * syncReply, 0, 0, 0, uint64(uintptr(unsafe.Pointer(&words[0]))), 0, 0, 0}
	must(p.fd, cmdSend, call)
	runtime.KeepAlive(words)
	runtime.KeepAlive(text)
	return call[sendReplyOffset]
}

// Waits for a message, by poll(2) as the runtime knows nothing of this descriptor.
func (p *peer) receive() uint64 {
	for {
		words := make([]uint64, 9)
		errno := command(p.fd, cmdRecv, words)
		if errno == 0 {
			return words[recvOffset]
		}
		if errno != syscall.EAGAIN {
			fail("RECV", errno)
		}
		type pollfd struct {
			fd              int32
			events, revents int16
		}
		wait := pollfd{int32(p.fd), 1, 0}
		timeout := syscall.NsecToTimespec(30e9)
		_, _, errno = syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&wait)), 1,
			uintptr(unsafe.Pointer(&timeout)), 0, 0, 0)
		if errno != 0 && errno != syscall.EINTR {
			fail("ppoll", errno)
		}
	}
}

func (p *peer) serve() {
	for {
		message := p.receive()
		answer := bytes.ToUpper(p.payload(message))
		from, cookie := p.word(message+8*msgSource), p.word(message+8*msgCookie)
		p.free(message)
		p.send(from, 1, 0, cookie, answer)
	}
}

func main() {
	rounds, err := strconv.Atoi(os.Args[1])
	if err != nil {
		fail(os.Args[1], err)
	}
	name := fmt.Sprintf("%d-go.%d", os.Getuid(), os.Getpid())
	makeBus(name)
	path := "/sys/fs/kdbus/" + name + "/bus"
	service, client := connect(path), connect(path)
	go service.serve()
	go func() {
		for {
			runtime.GC()
		}
	}()
	answers := 0
	for cookie := 1; cookie <= rounds; cookie++ {
		text := []byte(fmt.Sprintf("question %d", cookie))
		answer := client.send(service.id, uint64(cookie), expectReply, forever, text)
		if bytes.Equal(client.payload(answer), bytes.ToUpper(text)) {
			answers++
		}
		client.free(answer)
	}
	fmt.Printf("%d answers\n", answers)
}
