package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/qrgrant/qrgrant/provider/qr"
)

// certificateLifetime is longer than anybody lets dev run, and short enough for phones.
const certificateLifetime = 7 * 24 * time.Hour

// lanFlag is --lan, alone or with an address.
type lanFlag struct {
	wanted bool
	ip     netip.Addr
}

// IsBoolFlag lets the flag stand alone.
func (*lanFlag) IsBoolFlag() bool { return true }

// String implements flag.Value.
func (f *lanFlag) String() string {
	if f.ip.IsValid() {
		return f.ip.String()
	}
	return ""
}

// Set implements flag.Value.
func (f *lanFlag) Set(value string) error {
	switch value {
	case "true":
		*f = lanFlag{wanted: true}
		return nil
	case "false":
		*f = lanFlag{}
		return nil
	}
	ip, err := netip.ParseAddr(value)
	if err != nil || ip.Zone() != "" || ip.IsUnspecified() {
		return usagef("%q is not an address of this machine, such as 192.168.1.20", value)
	}
	*f = lanFlag{wanted: true, ip: ip.Unmap()}
	return nil
}

// host chooses the address and makes its certificate.
func (f *lanFlag) host(ctx context.Context, port string) (*devHost, error) {
	var others []netip.Addr
	ip := f.ip
	switch {
	case !ip.IsValid():
		found, err := localAddresses()
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			return nil, usagef("this machine has no address in a local network; connect it to one, or choose an address with --lan=ADDRESS")
		}
		ip, others = found[0], found[1:]
	case !ip.IsPrivate() && !ip.IsLoopback() && !ip.IsLinkLocalUnicast():
		return nil, usagef("--lan=%s is an address of the internet; dev is for the local network, use qrgrant serve", ip)
	}
	made, err := makeCertificate(ip, time.Now())
	if err != nil {
		return nil, err
	}
	addr := net.JoinHostPort(ip.String(), port)
	// Said here, and not by whatever listens first: the address is the one that was chosen.
	probe, err := listen(ctx, net.JoinHostPort(ip.String(), "0"))
	if err != nil {
		return nil, usagef("this machine has no address %s; choose another with --lan=ADDRESS", ip)
	}
	if err := probe.Close(); err != nil {
		return nil, err
	}
	return &devHost{addr: addr, scheme: "https://", ip: ip, others: others, certificate: made}, nil
}

// localAddresses lists this machine's addresses in private networks (RFC 1918, RFC 4193), those
// that a phone most likely shares first.
func localAddresses() ([]netip.Addr, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list the network interfaces: %w", err)
	}
	var found []nic
	for _, i := range interfaces {
		addresses, err := i.Addrs()
		if err != nil {
			continue // it has just gone
		}
		found = append(found, nic{name: i.Name, flags: i.Flags, addresses: addresses})
	}
	return chooseAddresses(found), nil
}

// nic is a network interface.
type nic struct {
	name      string
	flags     net.Flags
	addresses []net.Addr
}

// chooseAddresses takes IPv4 before IPv6, and leaves out what leads to containers and tunnels:
// no phone is there.
func chooseAddresses(interfaces []nic) []netip.Addr {
	var four, six []netip.Addr
	for _, i := range interfaces {
		virtual := slices.ContainsFunc([]string{"docker", "veth", "br-", "virbr", "vmnet", "vboxnet", "cni", "podman", "lxc"}, func(prefix string) bool {
			return strings.HasPrefix(i.name, prefix)
		})
		if virtual || i.flags&net.FlagUp == 0 || i.flags&(net.FlagLoopback|net.FlagPointToPoint) != 0 {
			continue
		}
		for _, a := range i.addresses {
			prefix, err := netip.ParsePrefix(a.String())
			switch ip := prefix.Addr().Unmap(); {
			case err != nil || !ip.IsPrivate():
			case ip.Is4():
				four = append(four, ip)
			default:
				six = append(six, ip)
			}
		}
	}
	return append(four, six...)
}

// devCertificate is made for one run and kept in memory only.
type devCertificate struct {
	certificate certificate
	roots       *x509.CertPool
	// fingerprint is the SHA-256 of the certificate as browsers show it.
	fingerprint string
}

// makeCertificate makes a certificate for the address and this machine's own name.
func makeCertificate(ip netip.Addr, now time.Time) (*devCertificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "qrgrant dev"},
		// The clock of the phone may be a little behind.
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(certificateLifetime),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{ip.AsSlice()},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	made := &devCertificate{roots: x509.NewCertPool()}
	made.roots.AddCert(leaf)
	// No files stand behind it, so none ever change.
	made.certificate.cert, made.certificate.key = watch(""), watch("")
	made.certificate.current.Store(&tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf})
	sum := sha256.Sum256(der)
	parts := make([]string, len(sum))
	for i, octet := range sum {
		parts[i] = fmt.Sprintf("%02X", octet)
	}
	made.fingerprint = strings.Join(parts, ":")
	return made, nil
}

// announceLAN says what a phone in the local network needs, and what it costs.
func (p *place) announceLAN(e env) {
	fmt.Fprintf(e.Stdout, `
Scan this with a phone in the same network; it opens the phone app %s

`, p.phone.url)
	picture, err := qr.Terminal(p.phone.url + "/")
	if err != nil {
		picture = oneLine(err.Error())
	} else if !isTerminal(e.Stdout) {
		picture = withoutColours(picture)
	}
	fmt.Fprintf(e.Stdout, `%s
The phone and the PC warn about the certificate, which nobody vouches for: compare and go on.
If the phone app says that the server cannot be reached, open %s there once.

  SHA-256    %s
             %s

Everybody in this network can reach these addresses until Ctrl-C; the password and the address
of the page keep them out. Use it in a network that you trust, and nothing real.
`, picture, p.playground.Issuer, p.host.certificate.fingerprint[:47], p.host.certificate.fingerprint[48:])
	if len(p.host.others) > 0 {
		var others []string
		for _, ip := range p.host.others {
			others = append(others, "--lan="+ip.String())
		}
		fmt.Fprintf(e.Stdout, "This machine has other addresses too: %s\n", strings.Join(others, ", "))
	}
	fmt.Fprintln(e.Stdout)
}
