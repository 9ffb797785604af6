import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { temporalSettings } from '../../workers/temporal-settings.ts';
import { makeTempDir } from '../support/temp.ts';

function configFile(text: string): string {
  const file = join(makeTempDir('toml'), 'temporal.toml');
  writeFileSync(file, text);
  return file;
}
// Whoever runs this may have a temporal.toml of their own.
const nowhere = configFile('[profile.default]\n');
const settings = (environment: Record<string, string>) =>
  temporalSettings({ TEMPORAL_CONFIG_FILE: nowhere, ...environment });

describe('where Temporal is', () => {
  it('is Temporal’s own default, unless the environment or a profile says otherwise', () => {
    expect(settings({})).toMatchObject({
      connectionOptions: { address: 'localhost:7233' },
      temporalNamespace: 'default',
    });
    const file = configFile('[profile.prod]\naddress = "temporal.example:7233"\nnamespace = "backups"\n');
    const profile = { TEMPORAL_CONFIG_FILE: file, TEMPORAL_PROFILE: 'prod' };
    expect(settings(profile)).toMatchObject({
      connectionOptions: { address: 'temporal.example:7233' },
      temporalNamespace: 'backups',
    });
    expect(settings({ ...profile, TEMPORAL_NAMESPACE: 'other' }).temporalNamespace).toBe('other');
    expect(settings({ TEMPORAL_ADDRESS: '', TEMPORAL_NAMESPACE: '' }).temporalNamespace).toBe('default');
  });

  it('S1: an API key turns TLS on, and never leaves the host without it', () => {
    const key = { TEMPORAL_API_KEY: 'k3y', TEMPORAL_ADDRESS: 'temporal.example:7233' };
    expect(settings(key).connectionOptions).toMatchObject({ apiKey: 'k3y', tls: true });
    for (const off of ['false', '0']) {
      expect(() => settings({ ...key, TEMPORAL_TLS: off })).toThrow(
        /API key would go to temporal\.example:7233 in plain/,
      );
    }
    const file = configFile(
      '[profile.default]\naddress = "temporal.example:7233"\napi_key = "k3y"\n[profile.default.tls]\ndisabled = true\n',
    );
    expect(() => settings({ TEMPORAL_CONFIG_FILE: file })).toThrow(/in plain text/);
    // A proxy on this host may be what speaks TLS.
    const sidecar = { ...key, TEMPORAL_TLS: 'false', TEMPORAL_ADDRESS: '127.0.0.1:7233' };
    expect(settings(sidecar).connectionOptions).toMatchObject({ apiKey: 'k3y', tls: false });
    expect(() => settings({ ...sidecar, TEMPORAL_ADDRESS: 'localhost.evil.example:7233' })).toThrow(
      /in plain/,
    );
  });

  it('half a client certificate is refused instead of left out', () => {
    expect(() => settings({ TEMPORAL_TLS_CLIENT_CERT_DATA: 'x' })).toThrow(/certificate without its key/);
    expect(() => settings({ TEMPORAL_TLS_CLIENT_KEY_DATA: 'x' })).toThrow(/key without its certificate/);
  });

  it('S1: what can’t be read is named, and nothing of what it holds', () => {
    const file = configFile('[profile.default]\napi_key = "t0psecret\naddress = "x"\n');
    const messageOf = (environment: Record<string, string>): string => {
      try {
        settings(environment);
        return '';
      } catch (error) {
        return JSON.stringify([String(error), error, (error as Error).cause ?? '']);
      }
    };
    expect(messageOf({ TEMPORAL_CONFIG_FILE: file })).toMatch(/can't be read: Invalid TOML/);
    expect(messageOf({ TEMPORAL_CONFIG_FILE: file })).not.toContain('t0psecret');
    expect(messageOf({ TEMPORAL_CONFIG_FILE: '/not/there.toml' })).toContain('/not/there.toml');
    expect(messageOf({ TEMPORAL_TLS_SERVER_CA_CERT_PATH: '/not/there.pem' })).toContain('/not/there.pem');
    expect(messageOf({ TEMPORAL_PROFILE: 'nope' })).toContain('nope');
    expect(messageOf({ TEMPORAL_CONFIG_FILE: configFile('') })).toContain('no [profile');
  });
});
