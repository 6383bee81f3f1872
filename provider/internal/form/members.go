package form

import (
	"encoding/json"
	"net/http"
	"net/url"
)

// Members parses a JSON object as a form: every member a clean string, none twice. An empty one
// counts as left out. Its error is a *Fault.
func Members(body []byte) (url.Values, error) {
	if !Clean(string(body)) {
		return nil, fault(http.StatusBadRequest, "The object holds invalid characters.")
	}
	members, err := object(body)
	if err != nil {
		return nil, err
	}
	values := make(url.Values, len(members))
	for name, raw := range members {
		var text *string
		if err := json.Unmarshal(raw, &text); err != nil || text == nil || !Clean(name) || !Clean(*text) {
			return nil, fault(http.StatusBadRequest, "A member is not a clean string.")
		}
		if *text != "" {
			values.Set(name, *text)
		}
	}
	return values, nil
}

// ReadMembers reads a JSON object of whatever members: one object, no member twice. Its error is a
// *Fault.
func ReadMembers(w http.ResponseWriter, r *http.Request) (map[string]json.RawMessage, error) {
	body, err := read(w, r, "application/json", http.StatusUnsupportedMediaType)
	if err != nil {
		return nil, err
	}
	return object(body)
}

// Object is ReadMembers for a body that was read already. Its error is a *Fault.
func Object(body []byte) (map[string]json.RawMessage, error) {
	if !Clean(string(body)) {
		return nil, fault(http.StatusBadRequest, "The object holds invalid characters.")
	}
	return object(body)
}
