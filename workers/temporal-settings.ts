import { loadClientConfigProfile, toClientOptions } from '@temporalio/envconfig';
import { existsSync } from 'node:fs';
import { BackupError, messageOf } from '../core/errors.ts';
import { payloadConversion } from './payload-codec.ts';

const HINT = 'look at the variables TEMPORAL_… and temporal.toml: docs/temporal.md';

/**
 * Where Temporal is, from its own environment variables and `temporal.toml` profiles, as Temporal's CLI reads them, and
 * how payloads are converted. Read anew for each connection: a certificate or key that was renewed counts.
 *
 * @throws BackupError `config-invalid`, also for what would be less safe than what was asked for
 */
export function temporalSettings(environment: NodeJS.ProcessEnv = process.env) {
  // Empty is what a template without its value leaves; Temporal's CLI takes it for not set.
  const overrideEnvVars = Object.fromEntries(
    Object.entries(environment).filter((entry): entry is [string, string] => (entry[1] ?? '') !== ''),
  );
  const file = overrideEnvVars['TEMPORAL_CONFIG_FILE'];
  if (file !== undefined && !existsSync(file)) {
    throw new BackupError('config-invalid', `TEMPORAL_CONFIG_FILE names ${file}, which is not there`, {
      hint: HINT,
    });
  }
  const { connectionOptions, namespace } = load(overrideEnvVars);
  const given = Object.fromEntries(
    Object.entries(connectionOptions).filter(([, value]) => value !== undefined),
  );
  const address = connectionOptions.address ?? 'localhost:7233';
  const { apiKey, tls } = connectionOptions;
  if (apiKey !== undefined && !tls && !isOwnHost(address)) {
    throw new BackupError('config-invalid', `the API key would go to ${address} in plain text: TLS is off`, {
      hint: 'leave TEMPORAL_TLS and tls.disabled out, or give no TEMPORAL_API_KEY',
    });
  }
  return {
    connectionOptions: { ...given, address },
    temporalNamespace: namespace ?? 'default',
    payloads: payloadConversion(environment),
  };
}

function load(overrideEnvVars: Record<string, string>) {
  try {
    const profile = loadClientConfigProfile({ overrideEnvVars });
    const { clientCert, clientKey } = profile.tls ?? {};
    // Half a pair would be left out without a word, and the server's refusal would be hard to read.
    if ((clientCert === undefined) !== (clientKey === undefined)) {
      throw new BackupError(
        'config-invalid',
        `TLS: there is a client ${clientCert ? 'certificate without its key' : 'key without its certificate'}`,
        { hint: 'give both: TEMPORAL_TLS_CLIENT_CERT_PATH and TEMPORAL_TLS_CLIENT_KEY_PATH' },
      );
    }
    return toClientOptions(profile);
  } catch (cause) {
    if (cause instanceof BackupError) throw cause;
    // The parser of TOML quotes the lines around what it does not understand, and one may be a key.
    // And it falls over a file that has no profile at all.
    const [why = ''] =
      cause instanceof TypeError ? ['temporal.toml has no [profile.…]'] : messageOf(cause).split('\n');
    throw new BackupError('config-invalid', `the settings for Temporal can't be read: ${why}`, {
      hint: HINT,
    });
  }
}

/** Whether this address never leaves the host: a proxy there may be what speaks TLS. */
function isOwnHost(address: string): boolean {
  return /^(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?$|^unix:/.test(address);
}
