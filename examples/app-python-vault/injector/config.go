package main

import "encoding/base64"

// config is the file that an agent reads: log in as the pod's service account, write the secrets' files.
func config(wishes Wishes, endsThen bool) map[string]any {
	var templates []map[string]any
	for _, secret := range wishes.Secrets {
		templates = append(templates, map[string]any{"contents": secret.Template, "destination": secret.File})
	}
	// An agent that cannot read a secret ends, so that its container shows it.
	rendering := map[string]any{"exit_on_retry_failure": true}
	if wishes.RenderInterval != "" {
		rendering["static_secret_render_interval"] = wishes.RenderInterval
	}
	config := map[string]any{
		"auto_auth": map[string]any{
			"method": map[string]any{
				"type":       "kubernetes",
				"mount_path": wishes.AuthPath,
				"config":     map[string]any{"role": wishes.Role, "token_path": identity + "/token"},
			},
			"sink": []map[string]any{
				{"type": "file", "config": map[string]any{"path": homeDir + "/.vault-token"}},
			},
		},
		"exit_after_auth": endsThen,
		"pid_file":        homeDir + "/.pid",
		"vault":           map[string]any{"address": wishes.Address, "tls_skip_verify": wishes.SkipVerify},
		"template_config": rendering,
	}
	// One without secrets only logs in. It would not take an empty list.
	if len(templates) > 0 {
		config["template"] = templates
	}
	return config
}

func encode(config []byte) string { return base64.StdEncoding.EncodeToString(config) }
