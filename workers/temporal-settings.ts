import { loadClientConnectConfig } from '@temporalio/envconfig';
import { BackupError, messageOf } from '../core/errors.ts';

/** Where Temporal is, from its own environment variables and `temporal.toml` profiles, as Temporal's CLI reads them. */
export function temporalSettings(environment: NodeJS.ProcessEnv = process.env) {
  const overrideEnvVars = Object.fromEntries(
    Object.entries(environment).filter((entry): entry is [string, string] => entry[1] !== undefined),
  );
  try {
    const { connectionOptions, namespace } = loadClientConnectConfig({ overrideEnvVars });
    const given = Object.fromEntries(
      Object.entries(connectionOptions).filter(([, value]) => value !== undefined),
    );
    return {
      connectionOptions: { ...given, address: connectionOptions.address ?? 'localhost:7233' },
      temporalNamespace: namespace ?? 'default',
    };
  } catch (cause) {
    throw new BackupError('config-invalid', `the settings for Temporal can't be read: ${messageOf(cause)}`, {
      cause,
      hint: 'look at TEMPORAL_CONFIG_FILE, TEMPORAL_PROFILE and temporal.toml',
    });
  }
}
