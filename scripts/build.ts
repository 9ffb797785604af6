/**
 * Compiles to JavaScript and bundles the workflows, for packages: Node strips no types below node_modules.
 * Usage: node scripts/build.ts [DIRECTORY]   (default: dist)
 */
import { bundleWorkflowCode, DefaultLogger } from '@temporalio/worker';
import { execFileSync } from 'node:child_process';
import { rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { BUNDLES } from '../workers/workflow-bundle.ts';

const root = fileURLToPath(new URL('..', import.meta.url));
const dist = resolve(process.argv[2] ?? join(root, 'dist'));

rmSync(dist, { recursive: true, force: true });
execFileSync(join(root, 'node_modules/.bin/tsc'), ['-p', 'tsconfig.build.json', '--outDir', dist], {
  cwd: root,
  stdio: 'inherit',
});
for (const [kind, name] of Object.entries(BUNDLES)) {
  const { code } = await bundleWorkflowCode({
    workflowsPath: join(root, 'workflows/index.ts'),
    logger: new DefaultLogger('WARN'),
    ...(kind === 'encrypted' && { failureConverterPath: join(root, 'workflows/failure-converter.ts') }),
  });
  writeFileSync(join(dist, name), code);
}
