import { open, readdir, realpath } from 'node:fs/promises';
import { constants } from 'node:fs';
import { join } from 'node:path';
import { BackupError } from '../core/errors.ts';
import { Secret } from '../core/secret.ts';
import { closestName } from '../manifests/closest-name.ts';
import { nameFault, secretKeyFault, type SecretKeySelector } from '../manifests/fields.ts';
import { MAX_SECRET_BYTES } from '../manifests/secret.ts';
import { errorCode } from './private-file.ts';

/** Finds secret values by reference, on this host; they never travel. */
export interface SecretResolver {
  /**
   * The value as it is stored, read anew each time, so that a rotated secret is used from the next opening on.
   *
   * @throws BackupError `secret-missing` saying where it was looked for
   */
  resolve(reference: SecretKeySelector & { readonly namespace: string }): Promise<Secret>;
}

export interface SecretResolverOptions {
  /** The state directory; secrets lie in `secrets/<namespace>/<name>/<key>`. */
  readonly stateDirectory: string;
  readonly environment: NodeJS.ProcessEnv;
}

/**
 * Looks in `$WALKEEP_SECRETS_DIR/<name>/<key>` (as Kubernetes mounts Secrets), then in the state directory, then in
 * the environment variable `WALKEEP_SECRET_<NAME>_<KEY>`.
 */
export function createSecretResolver({ stateDirectory, environment }: SecretResolverOptions): SecretResolver {
  const mounted = environment['WALKEEP_SECRETS_DIR'];
  return {
    async resolve({ namespace, name, key }) {
      refusePathTricks(namespace, name, key);
      const folders = [
        ...(mounted === undefined || mounted === '' ? [] : [join(mounted, name)]),
        join(stateDirectory, 'secrets', namespace, name),
      ];
      for (const folder of folders) {
        const bytes = await readValue(folder, key);
        if (bytes) return new Secret(bytes);
      }
      const variable = secretVariable(name, key);
      const value = environment[variable];
      if (value !== undefined && value !== '') return new Secret(value);
      throw await missing({ namespace, name, key }, folders, variable);
    },
  };
}

/** The environment variable that may hold a secret: `WALKEEP_SECRET_S3_CREDENTIALS_ACCESS_KEY_ID`. */
export function secretVariable(name: string, key: string): string {
  const word = (text: string) => text.toUpperCase().replace(/[^A-Z0-9]/g, '_');
  return `WALKEEP_SECRET_${word(name)}_${word(key)}`;
}

function refusePathTricks(namespace: string, name: string, key: string): void {
  const fault = nameFault(namespace, 63) ?? nameFault(name) ?? secretKeyFault(key);
  if (fault) throw new BackupError('format-invalid', fault.message, { hint: fault.fix });
}

/** A value below `folder`; the links Kubernetes mounts with are followed, as long as they stay inside. */
async function readValue(folder: string, key: string): Promise<Buffer | undefined> {
  const path = join(folder, key);
  try {
    const [root, target] = await Promise.all([realpath(folder), realpath(path)]);
    if (!target.startsWith(`${root}/`)) throw unreadable(path, 'it links to a place outside its folder');
    const file = await open(target, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    try {
      const about = await file.stat();
      if (!about.isFile()) throw unreadable(path, 'it is no file');
      if (about.size > MAX_SECRET_BYTES) throw unreadable(path, 'it is larger than 1 MiB');
      return await file.readFile();
    } finally {
      await file.close();
    }
  } catch (error) {
    const code = errorCode(error);
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
    if (error instanceof BackupError) throw error;
    throw unreadable(path, code ?? 'unknown error');
  }
}

function unreadable(path: string, why: string): BackupError {
  return new BackupError('secret-missing', `can't read the secret at ${path}: ${why}`, {
    hint: 'it has to be a file that the user of this process can read',
  });
}

async function missing(
  { namespace, name, key }: SecretKeySelector & { readonly namespace: string },
  folders: readonly string[],
  variable: string,
): Promise<BackupError> {
  const hint = `create it on this host: walkeep create secret generic ${name} -n ${namespace} --from-file=${key}=FILE`;
  for (const folder of folders) {
    const keys = (await readdir(folder).catch(() => [])).filter((entry) => !entry.startsWith('.')).toSorted();
    if (keys.length === 0) continue;
    const closest = closestName(key, keys);
    const told = closest === undefined ? '' : `; did the manifest mean "${closest}"?`;
    return new BackupError(
      'secret-missing',
      `secret "${name}" has no key "${key}"; it holds ${keys.join(', ')} (${folder})${told}`,
      { hint },
    );
  }
  const places = [...folders.map((folder) => join(folder, key)), `$${variable}`].join(', ');
  return new BackupError('secret-missing', `no secret "${name}" with key "${key}": looked at ${places}`, {
    hint,
  });
}
