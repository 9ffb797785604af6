/** walkeep as it was, in a folder of its own: what runs began with before the code was replaced. */
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { makeTempDir } from '../support/temp.ts';
import { repositoryRoot } from '../support/tools.ts';

const FOLDERS =
  'activities cli core manifests operations postgres repository scripts stores streams workers workflows'.split(
    ' ',
  );

/**
 * By default today's code as if every change of the workflows that replay has to know of had not been made: none of the
 * branches behind `patched(…)`. WALKEEP_OLD_CODE names a commit of this clone instead, such as a release.
 *
 * @returns its root; `scripts/walkeep` is there
 */
export function oldCode(): string {
  const root = join(makeTempDir('old'), 'walkeep');
  const commit = process.env['WALKEEP_OLD_CODE'];
  if (commit) {
    execFileSync('mkdir', [root]);
    const archive = execFileSync('git', ['-C', repositoryRoot, 'archive', commit], { maxBuffer: 1 << 28 });
    execFileSync('tar', ['-x', '-C', root], { input: archive });
  } else {
    for (const folder of FOLDERS)
      cpSync(join(repositoryRoot, folder), join(root, folder), { recursive: true });
    cpSync(join(repositoryRoot, 'package.json'), join(root, 'package.json'));
    forgetPatches(join(root, 'workflows'));
  }
  const modules = join(root, 'node_modules');
  if (!existsSync(modules)) symlinkSync(join(repositoryRoot, 'node_modules'), modules);
  execFileSync('chmod', ['-R', 'a+rX', root]);
  return root;
}

function forgetPatches(folder: string): void {
  for (const name of readdirSync(folder, { recursive: true }).map(String)) {
    if (!name.endsWith('.ts')) continue;
    const path = join(folder, name);
    const text = readFileSync(path, 'utf8');
    const changed = text.replaceAll(/\bpatched\((?:'[^']*'|[A-Z_a-z.]+)\)/g, '(false as boolean)');
    if (changed !== text) writeFileSync(path, changed);
  }
}
