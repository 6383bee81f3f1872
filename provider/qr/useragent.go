package qr

import (
	"net/http"
	"strings"
)

// DeviceOf says in a few words of our own which program on which system sent a request, as far
// as its User-Agent header tells.
func DeviceOf(r *http.Request) string { return describeUserAgent(r.UserAgent()) }

// describeUserAgent says a User-Agent header in a few words of our own. Nothing of the header
// itself is shown, so that nobody can write on the approval card with it.
func describeUserAgent(header string) string {
	program := firstOf(header, [][2]string{
		{"Edg/", "Edge"},
		{"OPR/", "Opera"},
		{"Firefox/", "Firefox"},
		{"Chrome/", "Chrome"},
		{"CriOS/", "Chrome"},
		{"FxiOS/", "Firefox"},
		{"Safari/", "Safari"},
		{"qrgrant/", "qrgrant in a terminal"},
		{"curl/", "curl"},
		{"Go-http-client/", "A program"},
		{"node", "A program"},
	})
	system := firstOf(header, [][2]string{
		{"Android", "Android"},
		{"iPhone", "iPhone"},
		{"iPad", "iPad"},
		{"Windows", "Windows"},
		{"Macintosh", "macOS"},
		{"CrOS", "ChromeOS"},
		{"Linux", "Linux"},
	})
	switch {
	case program == "" && system == "":
		return "An unknown device"
	case system == "":
		return program
	case program == "":
		return "A device with " + system
	}
	return program + " on " + system
}

func firstOf(header string, marks [][2]string) string {
	for _, mark := range marks {
		if strings.Contains(header, mark[0]) {
			return mark[1]
		}
	}
	return ""
}
