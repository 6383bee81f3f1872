package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strconv"
	"syscall"
)

// checkAddr refuses what cannot be listened on before anything is opened.
func checkAddr(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return usagef("--addr is %q; it must be HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080", addr)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return usagef("--addr is %q; the port must be a number from 0 to 65535", addr)
	}
	if _, err := netip.ParseAddr(host); err != nil && host != "" && looksNumeric(host) {
		return usagef("--addr is %q; %s is not an address", addr, host)
	}
	return nil
}

// looksNumeric reports whether a host can only have been meant as an address.
func looksNumeric(host string) bool {
	for _, r := range host {
		if (r < '0' || r > '9') && r != '.' && r != ':' {
			return false
		}
	}
	return true
}

// network is where an address is listened on. 0.0.0.0 says all of IPv4, and package net would
// open IPv6 too; [::] and no host at all are both.
func network(addr string) string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return "tcp"
	}
	ip, err := netip.ParseAddr(host)
	switch {
	case err != nil || ip == netip.IPv6Unspecified():
		return "tcp"
	case ip.Unmap().Is4():
		return "tcp4"
	}
	return "tcp6"
}

// listen opens the address and words the usual mistakes.
func listen(ctx context.Context, addr string) (net.Listener, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, network(addr), addr)
	if err == nil {
		return listener, nil
	}
	host, port, _ := net.SplitHostPort(addr)
	if host == "" {
		host = "every address"
	}
	var lookup *net.DNSError
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("port %s on %s is in use; choose another with --addr, for example --addr 127.0.0.1:0 for any free port", port, host)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("this user may not listen on port %s of %s; choose a port above 1023 with --addr", port, host)
	case errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.EAFNOSUPPORT):
		return nil, usagef("this machine has no address %s; choose another with --addr", host)
	case errors.As(err, &lookup):
		return nil, usagef("--addr is %q; there is no machine called %s", addr, host)
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	return nil, usagef("cannot listen on %s; choose another address with --addr", addr)
}
