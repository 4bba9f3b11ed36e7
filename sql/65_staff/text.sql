-- The supplied texts of notices to staff.
select loyalty_private.supply_text(v.kind, v.language, v.whom, v.proof, v.subject, v.text_before, v.text_after, v.sms_body)
  from (values
('staff_invitation', 'ja', 'somebody', 'link',
$$【{{ program.name }}】担当者アカウントのご案内$$,
$${{ program.name }}の担当者として登録されました。
次のURLを開き、パスワードを設定してください。このアドレスがログインIDになります。
$$,
$${{ minutes | duration }}以内に、一度だけご利用いただけます。

お心当たりのない場合は、URLを開かずにこのメールを破棄してください。
$$,
$$【{{ program.name }}】担当者として登録されました。パスワード設定({{ minutes | duration }}以内): {{ link }} 心当たりがなければ破棄してください。$$),
('staff_invitation', 'en', 'somebody', 'link',
$${{ program.name }}: your staff account$$,
$$You have been made one of the staff of {{ program.name }}.
Please open this link and set a password. This address is your login ID then.
$$,
$$It is good once, within {{ minutes | duration }}.

If this means nothing to you, please do not open the link and ignore this mail.
$$,
$${{ program.name }}: you are one of the staff. Set a password within {{ minutes | duration }}: {{ link }} If this means nothing to you, ignore it.$$)
) as v (kind, language, whom, proof, subject, text_before, text_after, sms_body);
