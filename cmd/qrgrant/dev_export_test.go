package main

import (
	"net"
	"net/netip"
)

// Interface is a network interface as ChooseAddresses looks at it.
type Interface struct {
	Name      string
	Flags     net.Flags
	Addresses []string
}

// ChooseAddresses is what `dev --lan` chooses from, the first first.
func ChooseAddresses(interfaces ...Interface) []netip.Addr {
	var all []nic
	for _, i := range interfaces {
		made := nic{name: i.Name, flags: i.Flags}
		for _, text := range i.Addresses {
			ip, network, err := net.ParseCIDR(text)
			if err != nil {
				panic(err)
			}
			made.addresses = append(made.addresses, &net.IPNet{IP: ip, Mask: network.Mask})
		}
		all = append(all, made)
	}
	return chooseAddresses(all)
}
